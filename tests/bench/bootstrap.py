"""Bootstrap intervals, cells per second: every figure of a cell that has an interval, with 10,000 resamples.

A cell is one policy in one round: about 330 games of seven turns or so, decoded by both decoders, and the turns of 120
games annotated, of 16 by three annotators. The paper's study has 56 of them at most, seven rounds of eight policies;
no two have as many games here, so that none gains from another's draws. The bar is 10 seconds for all; the ratio is to
that. Cutting utterances into words is not on the clock: their lengths are given.

Equality: the figures of a cell are those of a loop that draws games one resample at a time from the same generator.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from respect_core.measuring.decoder_metrics import calibration, confusion
from respect_core.measuring.drift import feedback_shares, label_counts
from respect_core.measuring.metrics import Counts, figures
from respect_core.measuring.turn_metrics import AnnotatedTurn, agreement, turn_figures
from respect_core.scenarios.multiref.actions import LETTERS
from respect_core.scenarios.multiref.similarity import from_vectors
from respect_core.stats import RESAMPLES, Floats, ratio
from tests.bench.record import Record, case, compare

CELLS, BAR_SECONDS = 7 * 8, 10.0
IMAGES = tuple(f"image-{letter}" for letter in LETTERS)
SATISFACTION = ("yes", "partial", "incorrect", "no")


@dataclass(frozen=True)
class Cell:
    counts: Counts
    lengths: Floats  # tokens of each game's utterances
    games: list[str]  # of each turn with a follow-up
    actual: list[int]
    labels: dict[str, list[int]]
    scores: list[float]
    annotated: list[AnnotatedTurn]


def cell(games: int) -> Cell:
    """Made-up figures of one policy in one round."""
    rng = np.random.default_rng(games)
    turns = rng.integers(3, 11, games)
    clicks = turns + rng.integers(0, 5, games)
    counts = np.stack([rng.integers(0, 2, games), turns, rng.binomial(clicks, 0.7), clicks], axis=1)
    names = [f"g{game:04}" for game, each in enumerate(turns) for _ in range(each - 1)]
    annotated = [
        AnnotatedTurn(
            *(f"g{game:04}", turn, "multiref", IMAGES, ""),
            *(f"select {rng.choice([*LETTERS])}", f"select {rng.choice([*LETTERS])}", str(rng.choice(SATISFACTION))),
            annotator=f"w{annotator}",
        )
        for game in range(120)
        for turn in range(turns[game])
        for annotator in range(3 if game < 16 else 1)
    ]
    return Cell(
        counts=counts,
        lengths=rng.poisson(8 * turns).astype(float),
        games=names,
        actual=rng.integers(-1, 2, len(names)).tolist(),
        labels={
            "binary": rng.choice([-1, 1], len(names)).tolist(),
            "ternary": rng.integers(-1, 2, len(names)).tolist(),
        },
        scores=rng.normal(0, 2, len(names)).tolist(),
        annotated=annotated,
    )


def measure(cells: list[Cell]) -> None:
    """All intervals of the cells."""
    f = from_vectors(dict(zip(IMAGES, np.random.default_rng(0).normal(size=(len(IMAGES), 64)), strict=True)))
    for each in cells:
        figures([each.counts])
        ratio(each.lengths.tolist(), each.counts[:, 1].tolist())
        turn_figures(each.annotated, f)
        agreement(each.annotated)
        for decoder, labels in each.labels.items():
            confusion(each.actual, labels, decoder, each.games)
            calibration(each.scores, each.actual, each.games)
            by_game: dict[str, list[int]] = {}
            for game, label in zip(each.games, labels, strict=True):
                by_game.setdefault(game, []).append(label)
            feedback_shares(label_counts(by_game.values()))


@case("bootstrap")
def bootstrap(quick: bool) -> Iterator[Record]:
    count = 7 if quick else CELLS
    cells = [cell(300 + number) for number in range(count)]
    _check(cells[0])
    record = compare(
        "bootstrap",
        f"{count} cells",
        None,
        ours=lambda: measure(cells),
        peer=None,
        work=count,
        unit="cells/s",
        peer_name=f"the bar: {CELLS} cells in {BAR_SECONDS:.0f} s",
        bar=1.0,
        equality=f"intervals equal those of {RESAMPLES:,} draws of games one after the other",
        repeats=1 if quick else 3,
    )
    required = CELLS / BAR_SECONDS
    yield replace(record, peer=required, ratio=record.ours / required)


def _check(one: Cell) -> None:
    """Success and click accuracy of a cell against the loop."""
    rng, games = np.random.default_rng(0), len(one.counts)
    sums = np.array([one.counts[rng.integers(games, size=games)].sum(0) for _ in range(RESAMPLES)])
    found = figures([one.counts])
    assert found.click_accuracy is not None
    for estimate, drawn in ((found.success, sums[:, 0] / games), (found.click_accuracy, sums[:, 2] / sums[:, 3])):
        assert (estimate.low, estimate.high) == tuple(np.percentile(drawn, [2.5, 97.5])), "other intervals"
