"""Write a report on a deployment: tables 2 to 9, figures 4 to 7, 14 and 15, and one page that reads like a short paper.

Of conversations it has those of them that follow from the data, under other words (`measuring.judge.Words`), and what
their follow-ups were decoded as.

`write` puts into a folder

- index.html, which is self-contained
- tables/table-2-success.csv and .md, ... and figures/figure-4.svg and .png, ...
- report.json: every number of the tables, against which the next report in the same folder compares

Files are written atomically, report.json last.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from respect_core.measuring.evidence import Evidence
from respect_core.reporting import case_studies, conversations, tables
from respect_core.reporting.changes import Changes, since_last, to_json, values
from respect_core.reporting.figures import confusions, curves, style
from respect_core.reporting.page import FigureName, PageFigure, alt_text, page
from respect_core.reporting.tables import Grid
from respect_core.scenarios.multiref.scenario import SCENARIO
from respect_core.store.base import Store
from respect_core.versions import code_version

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAGE = "index.html"
NUMBERS = "report.json"


def write(
    evidence: Evidence,
    out: Path,
    *,
    store: Store | None = None,
    up_to: int | None = None,
    facts: Mapping[str, str] | None = None,
    learned: Mapping[str, Any] | None = None,
    made: datetime | None = None,
) -> Changes | None:
    """Write the report to the folder `out`, and return what changed since the one before; None if it is the first.

    Args:
        store: source of the games to draw turn by turn; without it the page has none.
        up_to: the last round of which games are drawn.
        facts: what was run, for the page, beyond what the evidence knows.
        learned: summary of the round whose candidates the page begins with; None for a study.
        made: for the reader; the time of writing if None.

    Raises:
        ValueError: `out` has a report.json that is not a report's.
        TableError, StoreError: the games to draw cannot be read.
    """
    when = (made or datetime.now(UTC)).strftime("%Y-%m-%d %H:%M UTC")
    grids = tables.grids(evidence.cells, evidence.words)
    numbers = values(grids)
    changes = since_last(out / NUMBERS, numbers)
    pictured = evidence.scenario == SCENARIO.name
    cases = case_studies.choose(store, up_to) if store and pictured else []
    talks = conversations.choose(store, list(evidence.cells), up_to) if store and not pictured else []
    drawings = case_studies.drawings(store, cases) if store else {}
    for folder in ("tables", "figures"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    tables.write(grids, out / "tables")
    figures = {}
    for number, (figure, alt) in draw(evidence, grids).items():
        svg, _ = style.save(figure, out / "figures" / f"figure-{number}")
        figures[number] = PageFigure(svg.read_bytes(), alt)
    html = page(
        evidence, grids, figures, cases, talks, drawings, changes, made=when, facts=facts or {}, learned=learned
    )
    tables.put(out / PAGE, html)
    facts_of_report = {"name": evidence.name, "made": when, "code_version": code_version()}
    tables.put(
        out / NUMBERS, json.dumps(to_json(facts_of_report, numbers, changes), indent=1, ensure_ascii=False) + "\n"
    )
    return changes


def draw(evidence: Evidence, grids: Sequence[Grid]) -> dict[FigureName, tuple[Figure, str]]:
    """Draw the figures that have data, each with its alternative text."""
    cells, learned = evidence.cells, evidence.learned_from
    totals = "; ".join(f"{policy.upper()} {by[max(by)]} up to round {max(by)}" for policy, by in learned.items() if by)
    matrices = "Confusion matrices of the feedback decoders by round; the table below it has precision and recall."
    figures: dict[FigureName, tuple[Figure | None, str]] = {
        "follow-ups": (curves.follow_ups(cells), alt_text("By round.", grids, (21, 22, 23))),
        4: (curves.figure_4(cells, words=evidence.words), alt_text("By round.", grids, (2, 3, 4))),
        5: (curves.figure_5(cells), alt_text("By round.", grids, (5,))),
        6: (confusions.figure_6(cells, evidence.words), matrices),
        7: (curves.figure_7(cells), alt_text("By round.", grids, (6, 7, 8, 9))),
        14: (curves.figure_14(learned), f"Cumulative interactions: {totals}."),
        15: (curves.figure_15(cells), alt_text("Success with enhanced adapters.", grids, (2,))),
    }
    return {number: (figure, alt) for number, (figure, alt) in figures.items() if figure is not None}
