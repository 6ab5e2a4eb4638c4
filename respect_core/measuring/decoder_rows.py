"""Measure a feedback decoder on labelled follow-ups of any conversations: FOR MEASURING ONLY.

Intervals are percentile bootstraps over rows: the rows of such sets come from different conversations.

Shapes: N rows, R resamples.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from respect_core.errors import ExpectedError
from respect_core.measuring.decoder_metrics import auc
from respect_core.stats import Estimate, estimates
from respect_core.variants import DecoderKind

if TYPE_CHECKING:  # torch takes seconds to import
    from respect_core.feedback.decoder import FeedbackDecoder

RESAMPLES = 1000
_LABELS = {"negative": -1, "neutral": 0, "positive": 1}


class RowError(ExpectedError, ValueError):
    """A row cannot be used. The message names file, line, field and remedy."""


class Row(BaseModel):
    """A follow-up with what came before it, and the label that a reader gave it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    prompt: str = ""
    answer: str
    followup: str = Field(pattern=r"\S")
    label: Literal["negative", "neutral", "positive"]


def read(file: Path) -> list[Row]:
    """Read rows from JSON lines. Raises RowError at the first that cannot be used, or if there are none."""
    rows = []
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                rows.append(Row.model_validate_json(line))
            except ValidationError as error:
                first = error.errors(include_url=False)[0]
                field = ".".join(map(str, first["loc"])) or "the line"
                place = f"{file}, line {number}: {field}"
                raise RowError(f"{place}: {first['msg']}; correct it or remove the line") from None
    if not rows:
        raise RowError(f"{file}: no rows; give JSON lines with prompt, answer, followup and label")
    return rows


@dataclass(frozen=True)
class Figures:
    """A decoder's figures. Precision and recall are those of negatives under the ternary decoder's thresholds.

    Each is None where the rows or the decoder's labels leave it undefined.
    """

    turns: int
    negative: int
    neutral: int
    positive: int
    auc_negative_positive: Estimate | None
    auc_negative_rest: Estimate | None
    precision_negative: Estimate | None
    recall_negative: Estimate | None
    turns_per_second: float

    def to_json(self) -> dict[str, Any]:
        """Return values by name, and the ends of each interval under `<name>_ci95`."""
        result: dict[str, Any] = {}
        for name, value in vars(self).items():
            result[name] = value.value if isinstance(value, Estimate) else value
            if isinstance(value, Estimate):
                result[f"{name}_ci95"] = [value.low, value.high]
        return result


def evaluate(
    decoder: FeedbackDecoder, rows: Sequence[Row], progress: Callable[[int, int], None] | None = None
) -> Figures:
    """Decode all rows, and compare scores and labels with the readers' labels."""
    turns = [
        {
            **{"interaction_id": str(number), "round": 0, "variant": "", "turn": 0},
            **{"utterance": row.prompt, "action": row.answer, "follow_up": row.followup},
        }
        for number, row in enumerate(rows)
    ]
    started = time.monotonic()
    decoded = decoder.decode(turns, (DecoderKind.TERNARY.value,), progress)
    seconds = time.monotonic() - started
    by_row = {int(each["interaction_id"]): each for each in decoded}
    actual_N = np.array([_LABELS[rows[place].label] for place in by_row])
    score_N = np.array([each["score"] for each in by_row.values()])
    label_N = np.array([each["label"] for each in by_row.values()])
    statistics: list[Callable[[NDArray[np.int64]], float]] = [
        lambda at: auc(score_N[at][actual_N[at] < 0], score_N[at][actual_N[at] > 0]),
        lambda at: auc(score_N[at][actual_N[at] < 0], score_N[at][actual_N[at] >= 0]),
        lambda at: _share(actual_N[at][label_N[at] < 0] < 0),
        lambda at: _share(label_N[at][actual_N[at] < 0] < 0),
    ]
    every, draw = np.arange(len(actual_N)), np.random.default_rng(0)
    resampled = [draw.integers(0, len(every), len(every)) for _ in range(RESAMPLES)]
    values = np.array([statistic(every) for statistic in statistics])
    resamples = np.array([[statistic(at) for statistic in statistics] for at in resampled])
    counts: dict[str, Any] = {name: int((actual_N == value).sum()) for name, value in _LABELS.items()}
    return Figures(
        len(actual_N), **counts, **_named(estimates(values, resamples)), turns_per_second=len(turns) / seconds
    )


def _named(figures: Sequence[Estimate | None]) -> dict[str, Any]:
    names = ("auc_negative_positive", "auc_negative_rest", "precision_negative", "recall_negative")
    return dict(zip(names, figures, strict=True))


def _share(of: NDArray[np.bool_]) -> float:
    return float(of.mean()) if len(of) else float("nan")
