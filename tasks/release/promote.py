"""Promotion: from two registered versions to the gate's verdict, an entry in the ledger, and the alias `deployed`.

The entry is the only point of commitment: it is an object that only one writer can make. If a process dies before it,
there is nothing to undo; if one dies after it, there is nothing to repeat, as the next operation settles the alias. A
transaction that undoes earlier tasks would add nothing: they only read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any, Literal

from prefect import task
from prefect.artifacts import create_table_artifact
from pydantic import BaseModel, ConfigDict
from rich.markup import escape
from rich.table import Table

from respect_core.measuring.guard_rails import compare
from respect_core.profiles import Profile, of_version
from respect_core.release import ledger, lineage
from respect_core.release.approvals import Answer
from respect_core.release.canary import Canary
from respect_core.release.gate import Evidence, GateConfig, Verdict
from respect_core.release.ledger import Entry
from respect_core.scenario import scenario
from respect_core.training_data import curated
from respect_core.variants import Variant
from tasks.compute.process import WorkerCutOffError, WorkerFailedError, WorkerRefusedError
from tasks.registry import deployed as deployment
from tasks.registry import registry
from tasks.registry.forgotten import tainted
from tasks.registry.lineage import keep_lineage
from tasks.release import guard_rails
from tasks.release.contest import Contest, name_of
from tasks.release.evaluate import evaluate_policy
from tasks.support.references import EvaluatedRef, RegisteredRef
from tasks.support.retries import PATIENT
from tasks.support.workspace import Workspace

Decision = Literal["promoted", "rolled back", "no promotion", "already deployed", "canary began", "canary ended"]


class PromotionRef(BaseModel):
    """How a promotion or rollback ended. `version`: what is deployed now; `entry`: number in the ledger, if any."""

    model_config = ConfigDict(frozen=True)

    decision: Decision
    model: str
    version: str
    adapter_hash: str
    reasons: list[str] = []
    figures: dict[str, float | int | str] = {}
    entry: int | None = None

    def __str__(self) -> str:
        why = f": {'; '.join(self.reasons)}" if self.reasons else ""
        return f"{self.decision}, {self.version} is deployed{why}"


@task(name="examine", task_run_name="examine {policy.model}/{policy.version}", **PATIENT)
def examine(workspace: Workspace, contest: Contest, policy: RegisteredRef) -> Evidence:
    """Check a registered version's files, then let it act on the contest's games in a process of its own.

    Raises:
        WorkerCutOffError: the process was killed, or its store was unreachable, which says nothing about the version.
        ValueError: the games have changed since.
    """
    from respect_core.model.base import WEIGHTS, adapter_hash  # torch takes seconds to import

    try:
        files = registry.adapter(workspace, registry.named(workspace, name_of(policy)), fresh=True)
    except registry.AdapterMismatchError as error:
        return Evidence(name_of(policy), policy.adapter_hash, unusable=str(error))
    profile = of_version(files)
    weights = adapter_hash(files, like=WEIGHTS)  # the same weights under another profile have learned nothing
    try:
        found = _evaluated(workspace, profile, policy, contest.game_set)
        _require_same_games(workspace, contest)
    except WorkerCutOffError:
        raise
    except WorkerFailedError as error:
        lines = str(error).splitlines()  # what went wrong and where the log is, then the end of the log
        return Evidence(name_of(policy), weights, unusable=f"{lines[0]} {lines[-1]}")
    return Evidence(
        name_of(policy),
        weights,
        right={(name, turn): right for name, turn, right in found.turns},
        illegal_actions=found.illegal_actions,
        unusable="" if found.finite else "it gives probabilities that are not numbers",
    )


@task(name="look up users", **PATIENT)
def with_users(workspace: Workspace, evidence: Evidence) -> Evidence:
    """Add the users that the version learned from to the evidence; without a lineage it is not fit for use.

    Neither is a control that learned from shuffled labels.
    """
    if evidence.policy.startswith(f"{registry.model_name(Variant.SHUFFLED)}/"):
        return replace(evidence, unusable="it learned from shuffled labels: a control, which users never meet")
    try:
        keep_lineage(workspace, registry.named(workspace, evidence.policy))
    except lineage.LineageError as error:
        return replace(evidence, unusable=str(error))
    if reason := tainted(workspace).get(evidence.policy):
        return replace(evidence, unusable=reason)
    store = workspace.open()
    learned_at = lineage.feedback_by_address(store, evidence.policy)
    return replace(evidence, learned=lineage.feedback_by_user(store, evidence.policy), learned_at=learned_at)


@task(name="look at guard rails", **PATIENT)
def with_guard_rails(workspace: Workspace, evidence: Evidence, game_set: str) -> Evidence:
    """Add the guard rails' figures to the evidence about a version that acts, if it writes free text."""
    if evidence.unusable:
        return evidence
    version = registry.named(workspace, evidence.policy)
    profile = of_version(registry.adapter(workspace, version))
    if not scenario(profile.scenario).free_text:
        return evidence
    policies = version, deployment.seed_policy(workspace)
    own, seed = (guard_rails.measured(workspace, profile, each, game_set) for each in policies)
    return replace(evidence, guard_rails=compare(own, seed))


@task(name="report gate", **PATIENT)
def report_gate(workspace: Workspace, contest: Contest, verdict: Verdict) -> None:
    """Report the verdict as a table in Prefect and as tags of the candidate's version in MLflow."""
    model, number = contest.candidate.model, contest.candidate.version
    rows = [{"figure": name, "value": str(value)} for name, value in verdict.figures.items()]
    create_table_artifact(
        key=f"gate-{contest.candidate.variant}",
        table=[*({"figure": "reason", "value": reason} for reason in verdict.reasons), *rows],
        description=f"{model}/{number}: {_decision(verdict)}",
    )
    mlflow = registry.client(workspace)
    for name, value in {"gate": _decision(verdict), "gate.reasons": "; ".join(verdict.reasons)}.items():
        mlflow.set_model_version_tag(model, number, name, value[:5000])


@task(name="require the same", **PATIENT)
def require_same(workspace: Workspace, contest: Contest) -> None:
    """Raise if the candidate's files or the games are no longer those that the verdict is about.

    Raises:
        ValueError: they are not.
    """
    candidate = registry.named(workspace, name_of(contest.candidate))
    if reason := tainted(workspace).get(name_of(contest.candidate)):
        raise ValueError(f"{name_of(contest.candidate)}: {reason}; nothing is deployed")
    try:
        registry.adapter(workspace, candidate, fresh=True)
        if (found := candidate.tags["adapter_hash"]) != contest.candidate.adapter_hash:
            raise registry.AdapterMismatchError(
                f"it has adapter {found}, examined was {contest.candidate.adapter_hash}"
            )
    except registry.AdapterMismatchError as error:
        raise ValueError(f"{name_of(contest.candidate)} is not what was examined: {error}; promote again") from None
    _require_same_games(workspace, contest)


@task(name="commit", **PATIENT)
def commit(workspace: Workspace, variant: Variant, entry: Entry) -> None:
    """Write the entry, which decides, and let the alias follow.

    Raises:
        LedgerError: somebody else changed what is deployed since the entry was prepared.
    """
    ledger.append(workspace.open(), entry)
    deployment.settle(workspace, variant)


@task(name="prepare rollback", **PATIENT)
def prepare_rollback(workspace: Workspace, variant: Variant, actor: str, reason: str) -> Entry:
    """Return the entry that puts back what was deployed before the newest promotion that stands, or ends a canary.

    Raises:
        LedgerError: there is no such promotion.
        ValueError: the version to put back is no longer registered.
    """
    deployment.settle(workspace, variant)
    model = registry.model_name(variant)
    history = ledger.entries(workspace.open(), model)
    if (begun := ledger.in_canary(history)) is not None:
        return ledger.end_canary(begun, actor=actor, reason=reason)
    back = registry.named(workspace, ledger.to_roll_back(history, model).from_version)
    if why := tainted(workspace).get(f"{back.name}/{back.version}"):
        raise ledger.LedgerError(f"{back.name}/{back.version} does not come back: {why}; promote a clean candidate")
    return ledger.rollback(history, model, adapter_hash=back.tags["adapter_hash"], actor=actor, reason=reason)


def promotion_entry(
    contest: Contest,
    verdict: Verdict,
    gate: GateConfig,
    actor: str,
    reason: str,
    *,
    canary: Canary | None = None,
    approval: Answer | None = None,
) -> Entry:
    """Return the entry that replaces the version that the candidate was compared with, with the evidence.

    Args:
        canary: begins in its place.
        approval: the answer of the person who was asked, if anybody was.
    """
    candidate = contest.candidate
    evidence: dict[str, Any] = {
        "verdict": _decision(verdict),
        "reasons": list(verdict.reasons),
        "figures": verdict.figures,
        "gate": asdict(gate),
        "look": contest.look,
        "data_hash": contest.data_hash,
        "validation": {"game_set": contest.game_set, "sha256": contest.validation_sha256},
    }
    if approval is not None:
        evidence["approval"] = approval.model_dump()
    said: dict[str, Any] = {"actor": actor, "reason": reason, "evidence": evidence}
    if canary is not None:
        version, adapter_hash = name_of(contest.deployed), contest.deployed.adapter_hash
        return ledger.begin_canary(
            contest.history, candidate.model, canary, to_version=version, adapter_hash=adapter_hash, **said
        )
    return ledger.promotion(
        contest.history,
        candidate.model,
        from_version=name_of(contest.deployed),
        to_version=name_of(candidate),
        adapter_hash=candidate.adapter_hash,
        **said,
    )


def unchanged(contest: Contest, decision: Decision, verdict: Verdict | None = None) -> PromotionRef:
    """Return the result if nothing was entered in the ledger."""
    return PromotionRef(
        decision=decision,
        model=contest.candidate.model,
        version=name_of(contest.deployed),
        adapter_hash=contest.deployed.adapter_hash,
        reasons=list(verdict.reasons) if verdict else [],
        figures=verdict.figures if verdict else {},
    )


_DECISIONS: dict[ledger.Action, Decision] = {
    ledger.Action.PROMOTE: "promoted",
    ledger.Action.ROLLBACK: "rolled back",
    ledger.Action.CANARY: "canary began",
    ledger.Action.END: "canary ended",
}


def changed(entry: Entry) -> PromotionRef:
    """Return the result of an entry in the ledger."""
    return PromotionRef(
        decision=_DECISIONS[entry.action],
        model=entry.model,
        version=entry.to_version,
        adapter_hash=entry.adapter_hash,
        reasons=entry.evidence.get("reasons", [entry.reason] if entry.reason else []),
        figures=entry.evidence.get("figures", {}),
        entry=entry.number,
    )


def ledger_table(entries: Sequence[Entry]) -> Table:
    """Return a table of entries for the terminal, in order; the full evidence is in the entries themselves."""
    shown = Table("model", "entry", "time", "what", "from", "to", "by", "why", "exact match", title="Promotions")
    for each in entries:
        figures = each.evidence.get("figures", {})
        match = f"{figures['exact_match']:.1%} against {figures['deployed_exact_match']:.1%}" if figures else ""
        what = f"{each.action} of {each.canary.candidate} at {each.canary.share:.0%}" if each.canary else each.action
        when = each.time[:19].replace("T", " ")
        known = (each.model, str(each.number), when, what, each.from_version, each.to_version)
        shown.add_row(*known, *map(escape, (each.actor, each.reason)), match)
    return shown


def _evaluated(workspace: Workspace, profile: Profile, policy: RegisteredRef, game_set: str) -> EvaluatedRef:
    """Evaluate a policy, with a second try where that may help. Raises WorkerFailedError if the policy is at fault."""
    try:
        return evaluate_policy.fn(workspace, profile, policy, game_set)
    except (WorkerRefusedError, WorkerCutOffError):
        raise
    except WorkerFailedError:  # out of memory, or an adapter whose error looks the same
        return evaluate_policy.fn(workspace, profile, policy, game_set)


def _require_same_games(workspace: Workspace, contest: Contest) -> None:
    found = curated.stored(workspace.open(), contest.game_set).sha256
    if found != contest.validation_sha256:
        raise ValueError(
            f"the game set {contest.game_set!r} was replaced while policies were compared on it (sha256 {found[:12]}, "
            f"it was {contest.validation_sha256[:12]}); promote again"
        )


def _decision(verdict: Verdict) -> str:
    return "promotion" if verdict.promote else "no promotion"
