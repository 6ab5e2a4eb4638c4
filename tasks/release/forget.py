"""Forget in a whole run: its store, its folder and its MLflow; and say which versions learned from it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from respect_core.log import forgetting
from respect_core.log.forgetting import Receipt
from respect_core.log.forgotten_places import Place
from respect_core.log.tombstones import Tombstone
from respect_core.release import ledger
from respect_core.store.manifests import partitions, read_manifest
from respect_core.variants import SEED, FeedbackSource, Variant
from tasks.registry import registry
from tasks.registry.forgotten import tainted
from tasks.registry.forgotten_pages import ReportPages
from tasks.support.forgotten_files import LocalLines, RunFiles
from tasks.support.workspace import Workspace


class Retraining(NamedTuple):
    """A round whose versions of these variants are to be replaced by clean ones."""

    round: int
    profile: str
    validation: str
    feedback: FeedbackSource
    variants: list[Variant]


def forget(workspace: Workspace, wanted: Tombstone, places: Sequence[Place] = ()) -> Receipt:
    """Forget what a tombstone covers; raise as `forgetting.forget` does.

    Args:
        places: more of this machine.
    """
    everywhere = [*places, LocalLines(workspace), RunFiles(workspace), ReportPages(workspace)]
    return forgetting.forget(workspace.open(), wanted, everywhere, lambda: list(tainted(workspace)))


def in_front_of_users(workspace: Workspace) -> dict[str, str]:
    """Return the deployed versions that learned from what is forgotten, by model, each with what to do."""
    store, reasons = workspace.open(), tainted(workspace)
    found = {}
    for model in ledger.models(store):
        history = ledger.entries(store, model)
        if not history or history[-1].to_version not in reasons:
            continue
        variant = model.removeprefix(registry.model_name(""))
        remedy = f"`respect forget --retrain`, then `respect promote {variant}`"
        try:
            before = ledger.to_roll_back(history, model).from_version
        except ledger.LedgerError:
            before = ""
        if variant == SEED:
            remedy = "`respect forget --retrain`, which replaces it"
        elif before and before not in reasons:
            remedy = f"`respect rollback {variant}`, which puts back {before}; or {remedy}"
        found[history[-1].to_version] = f"{reasons[history[-1].to_version]}, and is deployed: {remedy}"
    return found


def retrainings(workspace: Workspace) -> list[Retraining]:
    """Return the newest round of each variant whose version is tainted, as it was learned."""
    store, reasons = workspace.open(), tainted(workspace)
    exported = {each.round for each in partitions(store, "turns")}
    wanted: dict[tuple[int, str, str, FeedbackSource], list[Variant]] = {}
    for variant in Variant:
        newest = registry.latest(workspace, variant)
        if newest is None or f"{newest.name}/{newest.version}" not in reasons:
            continue
        round = int(newest.tags["round"])
        if round not in exported:  # nobody else was in it
            continue
        manifest = read_manifest(store, "training_sets", round, variant)
        notes = manifest.parts[0].metadata if manifest and manifest.parts else {}
        feedback = FeedbackSource(notes.get("feedback", FeedbackSource.DECODED))
        key = round, newest.tags["profile"], newest.tags.get("validation", "validation"), feedback
        wanted.setdefault(key, []).append(variant)
    return [Retraining(*key, variants) for key, variants in sorted(wanted.items())]
