"""Name a report's measurements as the published cells are named (`respect_core.reporting.published`)."""

from __future__ import annotations

from collections.abc import Sequence

from respect_core.measuring.decoder_metrics import LABELS
from respect_core.measuring.evidence import Evidence
from respect_core.reporting.changes import values
from respect_core.reporting.published import Cell
from respect_core.reporting.tables import Grid, Value
from respect_core.variants import Variant


def measured(evidence: Evidence, grids: Sequence[Grid]) -> dict[Cell, Value | float]:
    """Return every number that the paper or its data may have published; rates between 0 and 1."""
    numbers: dict[Cell, Value | float] = dict(values(grids).items())
    for policy, by_round in evidence.cells.items():
        for number, cell in by_round.items():
            if cell.figures:
                numbers["games", policy, str(number)] = cell.figures.games
                numbers["success rate", policy, str(number)] = cell.figures.success
    numbers |= {
        ("exact match", Variant.B_FFT, key[2]): value for key, value in numbers.items() if key[1] == "Exact match"
    }
    return numbers | _figure_6(evidence) | _agreement(evidence)


def _figure_6(evidence: Evidence) -> dict[Cell, Value | float]:
    """Return confusions against annotators only: the paper publishes none against labels derived from targets."""
    return {
        (f"figure 6, {decoder}", f"round {number}, {actual}", str(predicted)): share
        for number, cell in evidence.cells.get(Variant.B_FFT, {}).items()
        for decoder, decoded in cell.decoded.items()
        if decoded.against == "annotations" and decoded.confusion
        for actual, row in zip(LABELS, decoded.confusion.matrix, strict=True)
        for predicted, share in zip(decoded.confusion.predicted, row, strict=True)
    }


def _agreement(evidence: Evidence) -> dict[Cell, Value | float]:
    if evidence.agreement is None:
        return {}
    questions = {name: getattr(evidence.agreement, name) for name in ("correctness", "action", "satisfaction")}
    return {("appendix A.2", name, ""): value for name, value in questions.items() if value is not None}
