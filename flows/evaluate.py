"""Evaluate registered policies on games that people played elsewhere, as a Prefect flow (appendix B.4, exact match)."""

from __future__ import annotations

from typing import Any

from prefect import flow

from flows.parameters import EvaluateParameters
from flows.support.threads import threads
from respect_core.profiles import profile as named_profile
from tasks.release.evaluate import evaluate_policy, policies, report_evaluation
from tasks.support.workspace import Workspace


@flow(name="evaluate", flow_run_name="evaluate on {parameters.game_set}", task_runner=threads())
def evaluate(workspace: Workspace, parameters: EvaluateParameters) -> dict[str, Any]:
    """Measure the exact match of the seed policy and of a round's variants, against chance.

    Raises:
        ValueError: no such game set, no variants of that round, or a variant that learned from the games.
    """
    number, registered = policies(workspace, parameters.game_set, parameters.round)
    profile, game_set = named_profile(parameters.profile), parameters.game_set
    evaluated = [evaluate_policy.submit(workspace, profile, policy, game_set) for policy in registered]
    return report_evaluation(workspace, game_set, number, [future.result() for future in evaluated])
