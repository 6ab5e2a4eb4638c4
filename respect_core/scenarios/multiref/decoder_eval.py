"""Measure decoded feedback against labels derived from the targets. FOR METRICS ONLY: nothing learns from this.

Right turns (+1) count as actual positives; partly right (0) and wrong (-1) ones as actual negatives, the strict
reading of figure 6. Deviation from the paper: its figure 6 compares with annotators' judgements of satisfaction;
these are not in the logs.

    python -m respect_core.scenarios.multiref.decoder_eval GAMES.pkl --json out.json --plot docs/decoder.svg

decodes a file of games in the authors' format and prints all figures below.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from respect_core.interaction import TurnKey
from respect_core.measuring import decoder_metrics

NAMES = {1: "positive", 0: "neutral", -1: "negative"}


@dataclass(frozen=True)
class Rates:
    """Precision and recall (None where no turn was called, or is, positive) at a threshold."""

    precision: float | None
    recall: float | None
    threshold: float | None = None


@dataclass(frozen=True)
class CrossValidated:
    """Figures pooled over folds; each fold's threshold was chosen on the other folds."""

    precision: float | None
    recall: float | None
    thresholds: tuple[float, ...]
    shipped: float  # chosen by the same rule on all games


@dataclass(frozen=True)
class Evaluation:
    """The figures of one decoder."""

    turns: int
    confusion: dict[str, dict[str, int]]  # actual -> decoded -> turns
    at_shipped: Rates
    auc: float | None
    cross_validated: CrossValidated | None  # None for a single game, which leaves no other to choose on


def confusion(pairs: Iterable[tuple[int, int]]) -> dict[str, dict[str, int]]:
    """Count (actual, decoded) labels: actual -> decoded -> turns, all nine cells."""
    counts = {actual: dict.fromkeys(NAMES.values(), 0) for actual in NAMES.values()}
    for actual, decoded in pairs:
        counts[NAMES[actual]][NAMES[decoded]] += 1
    return counts


def rates(pairs: Iterable[tuple[bool, bool]], threshold: float | None = None) -> Rates:
    """Compute precision and recall of positives from (is right, was called positive)."""
    pairs = list(pairs)
    hits = sum(right and called for right, called in pairs)
    called, right = sum(c for _, c in pairs), sum(r for r, _ in pairs)
    return Rates(hits / called if called else None, hits / right if right else None, threshold)


def auc(scored: Sequence[tuple[float, bool]]) -> float | None:
    """Compute the chance that a right turn scores above another, ties counting half. None unless there are both."""
    chance = decoder_metrics.auc(*([score for score, right in scored if right is flag] for flag in (False, True)))
    return None if math.isnan(chance) else chance


def curve(scored: Sequence[tuple[float, bool]]) -> list[Rates]:
    """Compute precision and recall at each distinct score as threshold (positive where score >= it), recall rising."""
    right, hits, points = sum(flag for _, flag in scored), 0, []
    ordered = sorted(scored, reverse=True)
    for called, (score, flag) in enumerate(ordered, start=1):
        hits += flag
        if called == len(ordered) or ordered[called][0] < score:
            points.append(Rates(hits / called, hits / right if right else None, score))
    return points


def choose_threshold(scored: Sequence[tuple[float, bool]], precision: float) -> float:
    """Choose the threshold with the highest recall among those of at least `precision`, else the most precise.

    Rounded up to 0.01 nats.

    Raises:
        ValueError: no scores.
    """
    points = curve(scored)
    if not points:
        raise ValueError("no scored turns to choose a threshold on")
    good = [point for point in points if (point.precision or 0) >= precision]
    best = good[-1] if good else max(points, key=lambda point: point.precision or 0)
    assert best.threshold is not None
    return -(-best.threshold * 100 // 1) / 100


def cross_validate(
    scored: Sequence[tuple[str, float, bool]], folds: int = 5, precision: float = 0.96
) -> CrossValidated:
    """Choose the threshold on all folds but one, call the turns of that one, and pool the calls.

    Args:
        scored: (game, score, is right) per turn. A game is in one fold, by the hash of its id.
        precision: the target of `choose_threshold`.

    Raises:
        ValueError: fewer than two folds, or all games in one.
    """
    if folds < 2:
        raise ValueError(f"{folds} folds; cross-validation needs 2 or more")
    order = sorted({game for game, _, _ in scored}, key=lambda game: hashlib.sha256(game.encode()).digest())
    fold = {game: number % folds for number, game in enumerate(order)}
    calls, thresholds = [], []
    for held_out in range(folds):
        threshold = choose_threshold([(s, r) for game, s, r in scored if fold[game] != held_out], precision)
        thresholds.append(threshold)
        calls += [(right, score >= threshold) for game, score, right in scored if fold[game] == held_out]
    pooled = rates(calls)
    shipped = choose_threshold([(score, right) for _, score, right in scored], precision)
    return CrossValidated(pooled.precision, pooled.recall, tuple(thresholds), shipped)


def evaluate(
    feedback: Iterable[Mapping[str, Any]],
    labels: Mapping[TurnKey, int],
    decoder: str = "binary",
    folds: int = 5,
    precision: float = 0.96,
) -> Evaluation:
    """Compute all figures for one decoder. Turns without a label (no targets logged) are left out.

    Args:
        feedback: rows of a feedback table.
        labels: from `respect_core.measuring.labels.target_labels`.
        decoder: 'binary' or 'ternary'; the other's rows are left out.

    Raises:
        ValueError: nothing to evaluate, or fewer than two folds.
    """
    actual: list[int] = []
    decoded: list[int] = []
    scored: list[tuple[str, float, bool]] = []
    thresholds = ""  # the first row's
    for row in feedback:
        if row["decoder"] == decoder and (label := labels.get((row["interaction_id"], row["turn"]))) is not None:
            actual.append(label)
            decoded.append(row["label"])
            scored.append((row["interaction_id"], float(row["score"]), label == 1))
            thresholds = thresholds or row["thresholds"]
    if not scored:
        raise ValueError(f"no turn has both {decoder} feedback and a label derived from targets")
    return Evaluation(
        turns=len(scored),
        confusion=confusion(zip(actual, decoded, strict=True)),
        at_shipped=rates(
            zip((right for _, _, right in scored), (label == 1 for label in decoded), strict=True),
            json.loads(thresholds)["positive"],
        ),
        auc=auc([(score, right) for _, score, right in scored]),
        cross_validated=cross_validate(scored, folds, precision) if len({game for game, _, _ in scored}) > 1 else None,
    )


# --- on a file of games -----------------------------------------------------------------------------------------


def game_turns(path: Path) -> tuple[list[dict[str, Any]], dict[TurnKey, int]]:
    """Read a file of games as turn rows and labels derived from the targets. Raises as `read_games` does."""
    from respect_core.log.records import InteractionLog, turn_rows
    from respect_core.scenarios.multiref.importers.games import read_games
    from respect_core.scenarios.multiref.judge import JUDGE

    rows: list[dict[str, Any]] = []
    labels: dict[TurnKey, int] = {}
    for log in read_games(path, round=0, variant="unknown"):
        if isinstance(log, InteractionLog) and log.outcome is not None:
            rows += turn_rows(log)
            for number, turn in enumerate(log.turns):
                labels[log.interaction_id, number] = JUDGE.label(turn.action, log.context, log.outcome.targets)
    return rows, labels


def plot(scored: Sequence[tuple[float, bool]], shipped: float, path: Path) -> None:
    """Plot precision and recall over the threshold."""
    from matplotlib.figure import Figure

    points = curve(scored)
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.add_subplot()
    thresholds = [point.threshold or 0.0 for point in points]
    axes.plot(thresholds, [point.precision or 0.0 for point in points], label="precision")
    axes.plot(thresholds, [point.recall or 0.0 for point in points], label="recall")
    axes.axvline(shipped, color="grey", linestyle="--", label=f"shipped: {shipped:.2f}")
    axes.set(xlabel="threshold on log-odds (nats)", ylabel="positives", ylim=(0, 1.02))
    axes.legend(loc="lower left")
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command in the module's docstring."""
    from respect_core.feedback.decoder import FeedbackDecoder, smollm2

    parser = argparse.ArgumentParser(
        prog="python -m respect_core.scenarios.multiref.decoder_eval", description="Measure the decoder."
    )
    parser.add_argument("games", type=Path, help="a file of games in the authors' format")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--precision", type=float, default=0.96, help="that the choice of threshold aims at")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    parser.add_argument("--plot", type=Path, help="write a plot of precision and recall here")
    options = parser.parse_args(arguments)
    rows, labels = game_turns(options.games)
    decoder = FeedbackDecoder(smollm2())
    clock, processor = time.perf_counter(), time.process_time()
    feedback = decoder.decode(rows, progress=lambda done, total: print(f"\r{done}/{total}", end="", file=sys.stderr))
    turns = sum(row["decoder"] == "binary" for row in feedback)
    seconds, cpu_seconds = time.perf_counter() - clock, time.process_time() - processor
    figures: dict[str, Any] = {
        kind: asdict(evaluate(feedback, labels, kind, options.folds, options.precision))
        for kind in ("binary", "ternary")
    }
    figures["speed"] = {
        "turns": turns,
        "seconds": seconds,
        "turns_per_second": turns / seconds,
        "turns_per_cpu_second": turns / cpu_seconds,
    }
    report = json.dumps(figures, indent=2)
    print(report)
    if options.json:
        options.json.write_text(report + "\n")
    if options.plot:
        scored = [
            (row["score"], labels[row["interaction_id"], row["turn"]] == 1)
            for row in feedback
            if row["decoder"] == "binary"
        ]
        plot(scored, decoder.config.binary_thresholds.positive, options.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
