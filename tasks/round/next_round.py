"""Find which round comes next, and whether its users have said enough."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from prefect import task
from pydantic import BaseModel, ConfigDict

from respect_core.log.log import LOGS
from respect_core.store import manifests
from respect_core.training_data.sources import learning_partitions
from respect_core.variants import Variant
from tasks.registry import registry
from tasks.support.retries import PATIENT
from tasks.support.workspace import Workspace


class NewInteractions(BaseModel):
    """New interactions of a round, by the variant that will learn from them."""

    model_config = ConfigDict(frozen=True)

    round: int
    wanted: int
    found: Mapping[str, int]

    @property
    def missing(self) -> dict[str, int]:
        """How many interactions each variant lacks, for variants that lack any."""
        return {variant: self.wanted - found for variant, found in self.found.items() if found < self.wanted}

    def __str__(self) -> str:
        lacking = ", ".join(f"{variant} {count}" for variant, count in self.missing.items())
        return (
            f"round {self.round}: not enough new interactions, {self.wanted} are wanted for each variant; "
            f"missing: {lacking}"
        )


@task(name="find next round", **PATIENT)
def find_next_round(workspace: Workspace, variants: Sequence[Variant]) -> int | None:
    """Return the first round that has interactions and lacks a registered version of one of the variants, or None."""
    logged = manifests.partitions_with(workspace.open(), LOGS, ".jsonl")
    return first_unfinished({part.round for part in logged}, finished_rounds(workspace, variants))


@task(name="count new interactions", **PATIENT)
def count_new(workspace: Workspace, round: int, variants: Sequence[Variant], wanted: int) -> NewInteractions:
    """Count a round's exported interactions, by the variant that learns from them."""
    store = workspace.open()
    present = manifests.partitions(store, "outcomes", [round])
    found = {}
    for variant in variants:
        chosen = [
            manifests.read_manifest(store, "outcomes", *part) for part in learning_partitions(present, variant, round)
        ]
        found[str(variant)] = sum(each.counts["games"] for each in chosen if each is not None)
    return NewInteractions(round=round, wanted=wanted, found=found)


def finished_rounds(workspace: Workspace, variants: Sequence[Variant]) -> set[int]:
    """Return the rounds that registered a version of each of the variants."""
    registered = [{int(v.tags["round"]) for v in registry.of_rounds(workspace, variant)} for variant in variants]
    return set.intersection(*registered) if registered else set()


def first_unfinished(logged: Iterable[int], finished: Iterable[int]) -> int | None:
    return min(set(logged) - set(finished), default=None)


def round_of_play(workspace: Workspace, variants: Iterable[str]) -> int:
    """Return the round of games outside a study: the one after the newest that these variants learned from."""
    newest = [registry.latest(workspace, variant) for variant in variants]
    return max((int(version.tags["round"]) + 1 for version in newest if version is not None), default=0)
