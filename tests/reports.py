"""A small deployment in a store, for tests of reports: policies, rounds, feedback, annotations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from samples import IMAGES, game, with_images

from respect_core.log.export import export_everything
from respect_core.log.log import append_logs
from respect_core.log.records import InteractionLog, LoggedTurn, Outcome
from respect_core.measuring.metrics import Estimate, Figures
from respect_core.schemas import ANNOTATIONS_SCHEMA, FEEDBACK_SCHEMA
from respect_core.store.base import Store
from respect_core.store.open import open_store
from respect_core.store.tables import write_partition

SCRIPT = "<script>alert('x')</script>"
"""What a user wrote who wishes us ill."""


def figures(success: float, games: int = 100) -> Figures:
    """Figures made up around a rate."""
    rate = Estimate(success, success - 0.05, success + 0.05)
    turns = Estimate(10 - 5 * success, 9 - 5 * success, 11 - 5 * success)
    return Figures(games, rate, turns, rate)


def won(number: int, round: int, variant: str, **changes: Any) -> InteractionLog:
    """A wrong image, its correction, a right one: the game of samples.py."""
    return game(f"g{number}", round, variant, user=f"user-{number % 2}", **changes)


def lost(number: int, round: int, variant: str) -> InteractionLog:
    """Four turns, a target less, a reset, and a call to try again by a user who writes HTML."""
    says = [SCRIPT, "deselect everything", "try again", "the boat & the cup"]
    does = ["select C", "deselect C", "select B", "select D"]
    return won(
        number,
        round,
        variant,
        turns=[LoggedTurn(utterance=said, action=done) for said, done in zip(says, does, strict=True)],
        outcome=Outcome(targets=["image-A", "image-D"], success=False),
    )


def deployment(root: Path) -> Store:
    """Round 0 by the seed policy (1 of 4 games won), round 1 by b-fft (3 of 4), control (1 of 4) and people."""
    store = with_images(open_store(str(root)), IMAGES)
    for round, variant, wins in ((0, "seed", 1), (1, "b-fft", 3), (1, "control", 1)):
        logs = [(won if number < wins else lost)(number, round, variant) for number in range(4)]
        append_logs(store, [shifted(log, number) for number, log in enumerate(logs)])
    append_logs(store, [shifted(won(number, 1, "hh"), number) for number in range(2)])
    export_everything(store)
    feedback(store, 0, "seed", [("g0", 0, -1), ("g0", 1, 1), ("g1", 0, -1), ("g1", 1, 1)])
    return store


def shifted(log: InteractionLog, by: int) -> InteractionLog:
    """Game `by` has a context of its own, the same whoever plays it: the images that are no targets trade places."""
    others = log.context[4:]
    return log.model_copy(update={"context": [*log.context[:4], *others[: len(others) - by]]})


def feedback(
    store: Store, round: int, variant: str, labels: Sequence[tuple[str, int, int]], score: float = 2.0
) -> None:
    """Both decoders said so of (interaction id, turn)."""
    rows = [
        {"interaction_id": game, "round": round, "variant": variant, "turn": turn, "decoder": decoder, "label": label}
        | {
            "score": score * label,
            "low_margin": False,
            "decoder_model": "SmolLM2",
            "decoder_revision": "0123456789abcdef",
        }
        | {"prompt_hash": "p", "thresholds": "{}"}
        for game, turn, label in labels
        for decoder in ("binary", "ternary")
    ]
    write_partition(store, "feedback", round, variant, pa.Table.from_pylist(rows, FEEDBACK_SCHEMA))


def annotations(store: Store, round: int, variant: str, rows: Sequence[tuple[str, int, str, str, str | None]]) -> None:
    """(interaction id, turn, annotator, intended action, satisfaction)."""
    given = [
        {"interaction_id": game, "round": round, "variant": variant, "turn": turn, "annotator": annotator}
        | {"intended": intended, "satisfaction": satisfaction, "correct": None, "source": "file"}
        for game, turn, annotator, intended, satisfaction in rows
    ]
    write_partition(store, "annotations", round, variant, pa.Table.from_pylist(given, ANNOTATIONS_SCHEMA))


def round_summary(games: int = 60, positives: int = 622) -> dict[str, Any]:
    """What tables and pages read of a round's summary: two candidates, and a variant that failed."""
    played = {
        "games": games,
        "before": {"value": 0.25, "ci95": [0.05, 0.5]},
        "after": {"value": 0.5, "ci95": [0.25, 0.75]},
        "change": {"value": 0.25, "ci95": [-0.1, 0.6]},
    }
    fft = {"positives": positives, "negatives_used": 0, "rehearsal_turns": 7, "val_turns": 342, "illegal_actions": 4}
    fft |= {"val_exact_match": 0.456, "val_sampled_match": 0.391, "played": played, "warnings": []}
    gate = {"exact_match_ci95": [0.401, 0.51], "promote": False, "reasons": ["it learned from 9 turns"]}
    kto = {**fft, "val_exact_match": 0.48, "warnings": ["it uses 0 negatives"]}
    variants = {
        "b-fft": {**fft, "gate": gate},
        "b-kto": {**kto, "gate": {**gate, "promote": True, "reasons": ["all is well"]}},
    }
    return {"round": 0, "variants": variants, "failed": {"t-rl": "out of memory"}, "mlflow": {}}
