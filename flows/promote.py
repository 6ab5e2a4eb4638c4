"""Change what users meet: a candidate replaces the deployed version if it passes the gate; one step rolls it back."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from prefect import flow, runtime
from prefect.flow_runs import pause_flow_run, suspend_flow_run
from prefect.states import Completed

from flows.promotion_parameters import PromoteParameters, RollbackParameters
from respect_core.release.canary import Plan
from respect_core.release.gate import Verdict, compares, judge
from tasks.release.approval import Approval, says, signed_answer
from tasks.release.canary import plan_canary
from tasks.release.contest import Contest, announce, contenders, spend_look
from tasks.release.promote import (
    PromotionRef,
    changed,
    commit,
    examine,
    prepare_rollback,
    promotion_entry,
    report_gate,
    require_same,
    unchanged,
    with_guard_rails,
    with_users,
)
from tasks.release.triggers import with_triggers
from tasks.support.workspace import Workspace

APPROVAL_SECONDS = 24 * 3600  # how long a person may take


@flow(name="promote", flow_run_name="promote {parameters.variant}")
def promote(workspace: Workspace, parameters: PromoteParameters) -> PromotionRef:
    """Deploy a variant's candidate if the gate lets it through. Ending without a promotion is normal; it says why.

    With `canary`, only a share of new conversations gets it, and `flows.canary` decides.

    Raises:
        ValueError: no candidate; no such game set, or one that the candidate learned from or that chose its checkpoint;
            a deployed version that does not act; or a candidate or game set that was replaced in the meantime.
        LedgerError: somebody else changed what is deployed in the meantime.
    """
    contest = contenders(workspace, parameters.variant, parameters.version, parameters.game_set, parameters.gate)
    if contest.candidate == contest.deployed:
        return _end(unchanged(contest, "already deployed"))
    settings = parameters.gate(contest.profile)
    announce(workspace, contest, settings)
    canary = None
    if (share := parameters.canary_share) is not None:
        plan = Plan(margin=parameters.canary_margin)
        canary = plan_canary(contest, share, plan, parameters.canary_conversations)
    deployed = examine(workspace, contest, contest.deployed)
    anchors = {name: examine(workspace, contest, each) for name, each in contest.anchors.items()}
    candidate = with_users(workspace, examine(workspace, contest, contest.candidate))
    candidate = with_guard_rails(workspace, candidate, contest.game_set)
    candidate, deployed = with_triggers(workspace, contest, candidate, deployed)
    actor, reason, answer = says(parameters.actor), parameters.reason, None
    if compares(candidate, deployed, settings):
        contest = spend_look(workspace, contest, actor)
    verdict = judge(candidate, deployed, settings, anchors=anchors, look=contest.look)
    report_gate(workspace, contest, verdict)
    if verdict.promote and parameters.approve:
        answer = signed_answer(workspace, contest.hash(), lambda key, said: _ask(contest, verdict, share, key, said))
        if not answer.approve:
            refusal = f"{answer.person} did not approve: {answer.note or 'no reason given'}"
            verdict = replace(verdict, promote=False, reasons=(refusal,))
            report_gate(workspace, contest, verdict)
        actor += f", approved by {answer.person}"
        reason = "; ".join(filter(None, [reason, answer.note]))
    if not verdict.promote:
        return _end(unchanged(contest, "no promotion", verdict))
    require_same(workspace, contest)
    entry = promotion_entry(contest, verdict, settings, actor, reason, canary=canary, approval=answer)
    commit(workspace, parameters.variant, entry)
    return _end(changed(entry))


@flow(name="rollback", flow_run_name="rollback {parameters.variant}")
def rollback(workspace: Workspace, parameters: RollbackParameters) -> PromotionRef:
    """Put back what was deployed before the newest promotion that stands; another rollback goes one further back.

    If a canary is in force, only that is ended.

    Raises:
        LedgerError: nothing was promoted, or somebody else changed what is deployed in the meantime.
    """
    entry = prepare_rollback(workspace, parameters.variant, says(parameters.actor), parameters.reason)
    commit(workspace, parameters.variant, entry)
    return _end(changed(entry))


def _end(result: PromotionRef) -> Any:
    """Return the result as a completed state, whose message says how it ended; Prefect gives callers the result."""
    return Completed(message=str(result), data=result)


def _ask(contest: Contest, verdict: Verdict, share: float | None, key: str, said: str) -> Approval:
    """Wait until somebody answers, on the approvals page or with `respect approve`.

    A deployment's run ends while it waits, so that it holds neither device nor slot, and starts from its beginning once
    it is answered: everything is examined again, and if anything has changed by then, the question is asked again. Any
    other run waits in place, and raises FlowPauseTimeout after a day.
    """
    found = "\n".join(f"- {reason}" for reason in verdict.reasons)
    what = "take the place of" if share is None else f"get {share:.0%} of the new conversations of"
    text = (
        f"{said}The gate lets {contest.candidate.model}/{contest.candidate.version} {what} "
        f"{contest.deployed.model}/{contest.deployed.version}:\n\n{found}"
    )
    question = Approval.with_initial_data(description=text)
    if runtime.deployment.id:
        return suspend_flow_run(question, timeout=APPROVAL_SECONDS, key=key)
    return pause_flow_run(question, timeout=APPROVAL_SECONDS, poll_interval=2, key=key)
