"""Gather the evidence of a deployment from a store, by policy and round: FOR MEASURING ONLY.

Everything is read from the tables (turns, outcomes, feedback, annotations; `measuring.cell`). As this includes
outcomes, nothing on the learning path may import this module (tests/test_no_auxiliary_labels.py checks that).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from respect_core.log import set_aside
from respect_core.measuring.cell import GameTotals, PolicyRound, measure_partition
from respect_core.measuring.comparison import Paired, paired
from respect_core.measuring.cost import Cost, read_cost
from respect_core.measuring.drift import FeedbackDrift, LanguageDrift, feedback_drift, language_drift
from respect_core.measuring.follow_ups import FollowUps
from respect_core.measuring.judge import ImageSimilarity, Words, words
from respect_core.measuring.review.estimates import Reviewed, measure
from respect_core.measuring.turn_metrics import Agreement, agreement
from respect_core.store.base import Store
from respect_core.store.manifests import Partition, partitions
from respect_core.training_data.sources import learning_partitions
from respect_core.variants import CONTROL, HH, SEED, Variant

ENHANCED = Variant.B_FFT_PLUS.value
"""B-FFT with adapters on the vision model too, a branch from round 3 on (appendix D)."""

ORDER = (*(variant.value for variant in Variant), CONTROL, HH)
"""Order of policies in the paper's tables; others follow."""

Cells = Mapping[str, Mapping[int, PolicyRound]]
"""Policy -> round -> figures, without an entry where a policy did not act. Round 0 is shared among systems."""


@dataclass(frozen=True)
class Comparison:
    """A comparison of two policies of a round on the contexts that both played, `policy` minus `other`."""

    round: int
    policy: str
    other: str
    result: Paired


@dataclass(frozen=True)
class Version:
    """A version that acted as a policy in a round, and what follow-ups to its replies were decoded as."""

    round: int
    policy: str
    name: str  # as the log names it, e.g. respect.b-fft/3
    follow_ups: FollowUps


@dataclass(frozen=True)
class Drift:
    """Changes in one policy's users from round to round: in their language, and in the feedback decoded from it."""

    policy: str
    language: tuple[LanguageDrift, ...]
    feedback: Mapping[str, tuple[FeedbackDrift, ...]]  # by decoder


@dataclass(frozen=True)
class Evidence:
    """All the data of a report."""

    name: str
    cells: Cells
    learned_from: Mapping[str, Mapping[int, int]]  # policy -> round -> interactions up to it (figure 14)
    comparisons: tuple[Comparison, ...]
    drift: Drift | None
    agreement: Agreement | None  # over all rounds and policies
    costs: tuple[Cost, ...]
    games: int
    turns: int
    users: int
    first: str | None  # ISO 8601 starts of the first and the last game
    last: str | None
    decoders: tuple[str, ...]  # model and revision of every decoder whose labels are in the store
    scenario: str  # of most turns
    versions: tuple[Version, ...]
    set_aside: Mapping[str, Mapping[int, int]]  # reason -> round -> records that are not used, or parts of them
    reviewed: Mapping[int, Mapping[str, Reviewed]]  # round -> decoder -> what people who reviewed follow-ups say of it

    @property
    def words(self) -> Words:
        """What the report calls the parts of the scenario."""
        return words(self.scenario)


def rounds_of(cells: Cells) -> list[int]:
    """Return the rounds in which any policy acted."""
    return sorted({number for by_round in cells.values() for number in by_round})


def shared_round_0(measured: Mapping[str, Mapping[int, PolicyRound]], systems: Iterable[str] = ()) -> Cells:
    """Order policies as the paper does, and give each system the seed policy's round 0, as it acted for all (table 2).

    Args:
        systems: policies of the study that may not have acted yet.
    """
    acted = {policy: by_round for policy, by_round in measured.items() if policy != SEED}
    shared, policies = measured.get(SEED, {}), {*systems, *acted}
    if shared and not policies:
        return {SEED: shared}
    ordered = [policy for policy in ORDER if policy in policies] + sorted(policies - set(ORDER))
    return {
        policy: ({} if policy in (HH, ENHANCED) else dict(shared)) | dict(acted.get(policy, {})) for policy in ordered
    }


def gather(
    store: Store,
    name: str,
    *,
    run: Path | None = None,
    systems: Iterable[str] = (),
    up_to: int | None = None,
    f: ImageSimilarity | None = None,
) -> Evidence:
    """Gather everything that the tables of a store show.

    Memory holds figures of each game, in bytes: of all partitions some 20 a game, and more of one at a time.

    Args:
        name: of the deployment, for its report.
        run: folder of the run, for costs.
        systems: policies of a study that may not have acted yet.
        up_to: the last round to read; all if None.
        f: similarity of images for equation 3; without it table 5 has no similarities.

    Raises:
        ValueError: no game in the tables.
        TableError, StoreError: as reading tables does.
    """
    measured: dict[str, dict[int, PolicyRound]] = defaultdict(dict)
    totals: dict[Partition, GameTotals] = {}
    systems = tuple(systems)
    acted = [each for each in partitions(store, "turns") if up_to is None or each.round <= up_to]
    compared = Counter(each.round for each in acted if each.variant != HH)
    of_main = _over_rounds(acted, systems)
    for partition in acted:
        measured[partition.variant][partition.round], totals[partition] = measure_partition(
            store,
            partition,
            f,
            contexts=partition.variant != HH and compared[partition.round] > 1,
            corpus=len(of_main) > 1 and partition in of_main.values(),
        )
    if not any(each.turns for each in totals.values()):
        raise ValueError(
            f"no games in the tables of {store.uri}; play or import some first: `respect study`, `respect import games`"
        )
    cells = shared_round_0(measured, systems)
    by_round: dict[int, list[Partition]] = defaultdict(list)
    for each in sorted(totals):
        by_round[each.round].append(each)
    annotated = [row for each in totals.values() for row in each.annotated]
    return Evidence(
        name=name,
        cells=cells,
        learned_from=learned_from({each: games.games for each, games in totals.items()}, cells),
        comparisons=tuple(_comparisons(totals)),
        drift=_drift(totals, main_policy(cells), of_main),
        agreement=agreement(annotated) if annotated else None,
        costs=tuple(read_cost(store, run, number) for number in rounds_of(cells)),
        games=sum(each.games for each in totals.values()),
        turns=sum(each.turns for each in totals.values()),
        users=len(np.unique(np.concatenate([each.users for each in totals.values()]))),
        first=min((each.first for each in totals.values() if each.first is not None), default=None),
        last=max((each.last for each in totals.values() if each.last is not None), default=None),
        decoders=tuple(sorted(set[str]().union(*(each.decoders for each in totals.values())))),
        scenario=_main_scenario(totals.values()),
        versions=tuple(_versions(measured)),
        set_aside=set_aside.reasons(store, up_to),
        reviewed={number: found for number, parts in by_round.items() if (found := measure(store, parts))},
    )


def learned_from(games: Mapping[Partition, int], cells: Cells) -> dict[str, dict[int, int]]:
    """Count the interactions, up to and including each round, from which a policy can learn (figure 14).

    `respect_core.training_data.sources.learning_partitions` chooses them.
    """
    return {
        policy: {number: sum(games[each] for each in learning_partitions(games, policy, number)) for number in by_round}
        for policy, by_round in cells.items()
        if by_round and policy not in (CONTROL, HH)  # a system that has not branched off yet has no rounds
    }


def _versions(measured: Mapping[str, Mapping[int, PolicyRound]]) -> Iterator[Version]:
    order = (SEED, *ORDER)
    acted = [(number, policy, cell) for policy, by_round in measured.items() for number, cell in by_round.items()]
    for number, policy, figures in sorted(
        acted, key=lambda each: (each[0], order.index(each[1]) if each[1] in order else len(order), each[1])
    ):
        for name, each in figures.by_version.items():
            yield Version(number, policy, name, each)


def _main_scenario(totals: Iterable[GameTotals]) -> str:
    turns: Counter[str] = Counter()
    for each in totals:
        turns.update(each.scenarios)
    return turns.most_common(1)[0][0]


def main_policy(cells: Cells) -> str:
    """Return the policy to show first: the first in the paper's order, people and CONTROL last."""
    return min(cells, key=lambda policy: (policy in (CONTROL, HH), list(cells).index(policy)))


# --- between policies, and between rounds ---------------------------------------------------------------------


def _comparisons(totals: Mapping[Partition, GameTotals]) -> Iterator[Comparison]:
    """Compare every policy of a round with CONTROL if it acted, else with the first in the paper's order."""
    for number in sorted({each.round for each in totals}):
        acted = {each.variant: games for each, games in totals.items() if each.round == number and each.variant != HH}
        other = next((policy for policy in (CONTROL, *ORDER) if policy in acted), None)
        for policy in [policy for policy in ORDER if other and policy in acted and policy != other]:
            mine, theirs = acted[policy].contexts, acted[other or CONTROL].contexts
            both = [one.columns[np.isin(one.hashes, each.hashes)] for one, each in ((mine, theirs), (theirs, mine))]
            if len(both[0]):
                yield Comparison(number, policy, other or CONTROL, paired(*both))


def _over_rounds(acted: Collection[Partition], systems: Iterable[str]) -> dict[int, Partition]:
    """Return the partitions of the main policy by round, of which round 0 is the seed policy's."""
    measured: dict[str, dict[int, PolicyRound]] = defaultdict(dict)
    for each in acted:
        measured[each.variant][each.round] = PolicyRound()
    cells = shared_round_0(measured, systems)
    if not cells:
        return {}
    policy = main_policy(cells)
    places = {number: (Partition(number, policy), Partition(number, SEED)) for number in sorted(cells[policy])}
    return {number: found for number, each in places.items() if (found := next((p for p in each if p in acted), None))}


def _drift(totals: Mapping[Partition, GameTotals], policy: str, of_main: Mapping[int, Partition]) -> Drift | None:
    """Measure the drift of the main policy; None with fewer than two rounds."""
    if len(of_main) < 2:
        return None
    of_policy = {number: totals[each] for number, each in of_main.items()}
    corpora = {number: each.corpus for number, each in of_policy.items() if each.corpus is not None}
    labels = {
        decoder: {number: games.labels[decoder] for number, games in of_policy.items() if decoder in games.labels}
        for decoder in sorted({name for games in of_policy.values() for name in games.labels})
    }
    return Drift(
        policy,
        tuple(language_drift(corpora)),
        {decoder: tuple(feedback_drift(by_round)) for decoder, by_round in labels.items() if len(by_round) > 1},
    )
