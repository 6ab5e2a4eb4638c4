"""Predict the gate's verdict on a round's candidates from their validation figures: no policy acts again for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mlflow.entities.model_registry import ModelVersion
from prefect import task

from respect_core.profiles import Profile
from respect_core.release import ledger, looks
from respect_core.release.gate import Evidence, gate, judge
from respect_core.stats import by_game, ratio
from respect_core.variants import Variant
from tasks.registry import deployed as deployment
from tasks.registry import registry
from tasks.release import contest
from tasks.release.promote import with_users
from tasks.support.references import LearnedRef, PreviewRef
from tasks.support.retries import PATIENT
from tasks.support.workspace import Workspace

_FLATTERED = "these games chose the checkpoint, which flatters it; `respect promote` judges by others"


@task(name="preview gate", **PATIENT)
def preview_gate(workspace: Workspace, profile: Profile, learned: Mapping[str, LearnedRef]) -> dict[str, PreviewRef]:
    """Return the gate's verdict on each candidate against what is deployed now, as far as it is known without play.

    `promote` examines both again, and its verdict counts.
    """
    return {variant: _preview(workspace, profile, Variant(variant), each) for variant, each in learned.items()}


def _preview(workspace: Workspace, profile: Profile, variant: Variant, learned: LearnedRef) -> PreviewRef:
    name = f"{learned.registered.model}/{learned.registered.version}"
    candidate = registry.named(workspace, name)
    known = _validated(workspace, candidate)
    interval = _interval(known) if known else None
    try:
        deployed = deployment.deployed(workspace, variant)
        compared = _validated(workspace, deployed)
        if known is None or compared is None or not _same_games(candidate, deployed):
            raise ValueError(
                f"{name} and {deployed.name}/{deployed.version}, which is deployed, left no record of the same "
                "validation games; `respect promote` lets both act"
            )
        store = workspace.open()
        anchors = {
            name: found
            for name, each in contest.anchors(workspace, ledger.entries(store, candidate.name), deployed).items()
            if _same_games(candidate, each) and (found := _validated(workspace, each)) is not None
        }
        known = with_users.fn(workspace, replace(known, guard_rails=learned.guard_rails or {}))
        look = len(looks.read(store, candidate.name)) + 1
        verdict = judge(known, compared, gate(profile.name), anchors=anchors, look=look)
    except ValueError as error:
        return PreviewRef(exact_match_ci95=interval, promote=None, reasons=[str(error)])
    return PreviewRef(
        exact_match_ci95=interval,
        promote=None if verdict.undecided else verdict.promote,
        reasons=[*verdict.reasons, *([_FLATTERED] if verdict.promote or verdict.undecided else [])],
        figures=verdict.figures,
    )


def _validated(workspace: Workspace, version: ModelVersion) -> Evidence | None:
    """Return what a version did on the games that chose it, as recorded at its registration; None if it was not."""
    found: dict[str, Any] | None = registry.read_json(workspace, str(version.run_id), registry.VALIDATED)
    if found is None:
        return None
    right = {(game, turn): matched for game, turn, matched in found["turns"]}
    policy = Evidence(f"{version.name}/{version.version}", version.tags["adapter_hash"], right=right)
    return replace(policy, illegal_actions=found["illegal_actions"])


def _same_games(one: ModelVersion, other: ModelVersion) -> bool:
    return one.tags.get("validation_sha256") == other.tags.get("validation_sha256") is not None


def _interval(policy: Evidence) -> list[float]:
    """Return the 95% interval of the criterion, resampling whole games."""
    right, turns = by_game([game for game, _ in policy.right], [(right, 1) for right in policy.right.values()]).T
    match = ratio(right, turns)
    return [match.low, match.high]
