"""Compare two registered versions on the same held-out prompts, as a Prefect flow."""

from __future__ import annotations

from typing import Any

from prefect import flow

from flows.parameters import CompareParameters
from flows.support.threads import threads
from respect_core.profiles import profile as named_profile
from tasks.release.compare import judge_replies, measure, pair, report_comparison, some, taste
from tasks.release.live import compare_live
from tasks.round.collect import collect_chats
from tasks.support.workspace import Workspace


@flow(name="compare", flow_run_name="compare {parameters.first} and {parameters.second}", task_runner=threads())
def compare(workspace: Workspace, parameters: CompareParameters) -> dict[str, Any]:
    """Compare how likely the liked replies are under each version, and, if a judge is named, what it prefers.

    With `live`, compare what users said next.

    Raises:
        ValueError: no such version or game set, a version that learned from the set, or no live conversation.
        EndpointError: the judge does not answer.
    """
    profile, names = named_profile(parameters.profile), (parameters.first, parameters.second)
    if parameters.live:
        collect_chats(workspace)
        return compare_live(workspace, profile, pair(workspace, names), parameters.effect)
    policies = pair(workspace, names, parameters.game_set)
    game_set, judge = parameters.game_set, parameters.judge
    liked = taste(workspace, profile, game_set)
    prompts = some(liked.liked, parameters.prompts) if judge else []
    measured = [
        measure.submit(workspace, profile, policy, game_set, liked, prompts, parameters.reply_tokens)
        for policy in policies
    ]
    first, second = (future.result() for future in measured)
    judged = (
        judge_replies(workspace, game_set, judge, prompts, first, second, parameters.concurrency) if judge else None
    )
    return report_comparison(workspace, game_set, liked, first, second, judged)
