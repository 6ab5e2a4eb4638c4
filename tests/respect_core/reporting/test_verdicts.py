"""What was measured, under the names of the published cells."""

from __future__ import annotations

from pathlib import Path

from reports import annotations, deployment, feedback

from respect_core.measuring.evidence import gather
from respect_core.reporting.published import PUBLISHED, verdicts
from respect_core.reporting.tables import grids
from respect_core.reporting.verdicts import measured


def test_measured_cells_have_the_names_of_the_published_ones(tmp_path: Path) -> None:
    store = deployment(tmp_path)
    feedback(store, 1, "b-fft", [("g0", 0, -1), ("g0", 1, 1)])
    turns = [("g0", number, name, "select C", "no") for number in (0, 1) for name in ("a", "b", "c")]
    annotations(store, 0, "seed", turns)
    evidence = gather(store, "mine", f=lambda a, b: float(a == b))
    found = measured(evidence, grids(evidence.cells))
    published = {(table, row, column) for table, source in PUBLISHED.items() for row, column in source.values}
    for cell in (
        *((table, "b-fft", "1") for table in (2, 3, 4, 6, 7, 8, 9)),
        *((5, row, "0") for row in ("Exact match", "Pos Feedback", "Sim", "Sim -FB")),
        *(("figure 6, ternary", f"round 0, {actual}", "1") for actual in (-1, 0, 1)),
        *(("appendix A.2", question, "") for question in ("correctness", "action", "satisfaction")),
        ("games", "b-fft", "0"),
        ("success rate", "b-fft", "1"),
        ("exact match", "b-fft", "0"),
    ):
        assert cell in found and cell in published, cell
    assert found["games", "b-fft", "0"] == 4
    compared = [each for each in verdicts(found) if each.measured is not None]
    assert (compared[0].table, compared[0].row, compared[0].measured) == (2, "b-fft", 25.0)


def test_labels_derived_from_targets_are_not_the_published_ones(tmp_path: Path) -> None:
    evidence = gather(deployment(tmp_path), "mine")
    assert not any(str(table).startswith("figure 6") for table, _, _ in measured(evidence, grids(evidence.cells)))
