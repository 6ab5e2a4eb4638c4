"""Render the report as one self-contained HTML page that reads like a short paper.

This module decides what the page says, page.html how it looks. The template engine escapes everything that comes from
users or from a run. Figures are images, so nothing in them can reach the page.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any

from respect_core.errors import extra
from respect_core.measuring.evidence import Evidence, main_policy, rounds_of
from respect_core.measuring.metrics import Estimate
from respect_core.reporting import candidates
from respect_core.reporting.case_studies import CaseStudy
from respect_core.reporting.changes import Changes
from respect_core.reporting.figures.confusions import decoded_policy
from respect_core.reporting.page_tables import agreement, changed, comparisons, costs, decoders, drifts, users
from respect_core.reporting.tables import Grid, Plain, Value
from respect_core.variants import CONTROL, Variant

with extra("report"):
    from jinja2 import Environment, StrictUndefined

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class PageFigure:
    """A figure as SVG, and its text for readers who do not see it."""

    svg: bytes
    alt: str

    @property
    def source(self) -> str:
        """The figure as a data URI."""
        return f"data:image/svg+xml;base64,{b64encode(self.svg).decode()}"


def page(
    evidence: Evidence,
    grids: Sequence[Grid],
    figures: Mapping[int, PageFigure],
    cases: Sequence[CaseStudy],
    drawings: Mapping[str, str],
    changes: Changes | None,
    *,
    made: str,
    facts: Mapping[str, str],
    learned: Mapping[str, Any] | None = None,
) -> str:
    """Render the page's HTML.

    Args:
        grids: the tables that have values.
        figures: by number, those that could be drawn.
        drawings: data URIs of the images in `cases`.
        changes: None for the first report.
        made: time of the report, for the reader.
        facts: what was run, beyond what the evidence knows.
        learned: summary of the round whose candidates the page begins with.
    """
    engine = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    template = engine.from_string(resources.files("respect_core.reporting").joinpath("page.html").read_text())
    language, feedback = drifts(evidence)
    pictured = [case for case in cases if all(tile.image in drawings for step in case.steps for tile in step.tiles)]
    return template.render(
        name=evidence.name,
        made=made,
        rounds=rounds_of(evidence.cells),
        findings=findings(evidence),
        learned=learned and _candidates(learned),
        facts=_facts(evidence, facts),
        grids={grid.number: grid.plain() for grid in grids},
        figures=figures,
        comparisons=comparisons(evidence.comparisons),
        agreement=agreement(evidence),
        confusion_caption=_confusion_caption(evidence),
        decoders=decoders(evidence),
        language_drift=language,
        feedback_drift=feedback,
        users=users(evidence),
        costs=costs(evidence),
        beside=Variant.B_FFT.value in evidence.cells,
        absent=_absent(evidence, figures, len(cases) - len(pictured)),
        cases=pictured,
        drawings=drawings,
        numbers={image: number for number, image in enumerate(drawings)},
        changes={"sentences": _change_sentences(changes, grids), "table": changes and changed(changes, grids)},
    )


def _candidates(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Present what a round's candidates learned: opening sentences, the table, and remarks below it."""
    rows = tuple(candidates.rows(summary))
    return {
        "round": summary["round"],
        "findings": candidates.findings(summary),
        "table": Plain(candidates.CAPTION, candidates.COLUMNS, rows) if rows else None,
        "remarks": candidates.remarks(summary),
        "few": candidates.FEW,
    }


def findings(evidence: Evidence) -> list[str]:
    """State what the numbers say, in a sentence or two: the curve of the main policy, and CONTROL next to it."""
    policy = main_policy(evidence.cells)
    success = {number: cell.figures.success for number, cell in sorted(evidence.cells[policy].items()) if cell.figures}
    if not success:
        return [f"{policy.upper()} has no game with an outcome: there is nothing to say about success."]
    first, last = min(success), max(success)
    games = evidence.cells[policy][last].figures
    assert games is not None
    if first == last:
        won = round(games.success.value * games.games)
        return [f"In round {last}, {policy.upper()} won {won} of {games.games} games: {interval(success[last])}."]
    before, after = success[first], success[last]
    apart = after.low > before.high or after.high < before.low
    moved = ("rose" if after.value > before.value else "fell") if apart else "went"
    sentences = [
        f"From round {first} to round {last}, the share of games that {policy.upper()} won {moved} from "
        f"{interval(before)} to {interval(after)}; the intervals {'do not overlap' if apart else 'overlap'}."
    ]
    control = evidence.cells.get(CONTROL, {})
    if last in control and (figures := control[last].figures) and policy != CONTROL:
        sentences.append(f"The seed policy, deployed again in round {last}, won {interval(figures.success)}.")
    return sentences


def interval(share: Estimate) -> str:
    """Format a share in percent with its interval."""
    return f"{100 * share.value:.1f}% [{100 * share.low:.1f}, {100 * share.high:.1f}]"


def alt_text(title: str, grids: Sequence[Grid], tables: Sequence[int]) -> str:
    """Put a figure into words: first and last value of every row of the tables that it draws."""
    parts = []
    for grid in (each for each in grids if each.number in tables):
        lines = [line for row, values in grid.rows.items() if (line := _line(grid, row, values))]
        parts.append(f"{grid.title.split(' (')[0].split(', with')[0].rstrip('.')}: {'; '.join(lines)}.")
    return f"{title} {' '.join(parts)}"


def _line(grid: Grid, row: str, values: Sequence[Value | None]) -> str:
    points = [
        (column, grid.text(value.value if isinstance(value, Estimate) else value))
        for column, value in zip(grid.columns, values, strict=True)
        if value is not None
    ]
    if not points:
        return ""
    (first, before), (last, after) = points[0], points[-1]
    if first == last:
        return f"{grid.label(row)} {before} in round {first}"
    return f"{grid.label(row)} from {before} in round {first} to {after} in round {last}"


def _facts(evidence: Evidence, run: Mapping[str, str]) -> list[tuple[str, str]]:
    numbers = rounds_of(evidence.cells)
    facts = {
        **run,
        "Rounds": f"{numbers[0]} to {numbers[-1]}" if len(numbers) > 1 else str(numbers[0]),
        "Policies": ", ".join(policy.upper() for policy in evidence.cells),
        "Games": f"{evidence.games:,} with {evidence.turns:,} turns, by {evidence.users:,} users",
        "Played": f"{evidence.first[:10]} to {(evidence.last or '')[:10]}" if evidence.first else "",
        "Feedback decoder": ", ".join(evidence.decoders) or "none: no feedback in the store",
    }
    return [(term, text) for term, text in facts.items() if text]


def _absent(evidence: Evidence, figures: Mapping[int, PageFigure], unpictured: int) -> dict[str, list[str]]:
    """List what the paper has and this page lacks, and why."""
    absent: dict[str, list[str]] = {"curve": [], "turns": [], "feedback": [], "games": []}
    if 15 not in figures:
        absent["curve"].append("Figure 15 is left out: no policy with enhanced adapters (b-fft+) was deployed.")
    if 5 not in figures:
        absent["turns"].append(
            "Table 5 and figure 5 are left out: nobody annotated these turns. What the speaker meant in a turn cannot "
            "be told from the game's targets, so nothing else stands in for the annotators (appendix A.2)."
        )
    elif not any(
        cell.turn_figures and cell.turn_figures.similarity
        for by_round in evidence.cells.values()
        for cell in by_round.values()
    ):
        absent["turns"].append(
            "Similarities (equation 3) are left out: give a table of image similarities with --similarity FILE."
        )
    if 6 not in figures:
        absent["feedback"].append("Figure 6 is left out: no decoded turn has anything to be compared with.")
    if unpictured:
        games = "1 game is" if unpictured == 1 else f"{unpictured} games are"
        absent["games"].append(f"{games} not drawn turn by turn: the store lacks pictures of what they were about.")
    return absent


def _confusion_caption(evidence: Evidence) -> str:
    policy = decoded_policy(evidence.cells)
    if policy is None:
        return ""
    against = {
        decoded.against
        for cell in evidence.cells[policy].values()
        for decoded in cell.decoded.values()
        if decoded.against
    }
    reading = {
        "annotations": "Rows are annotators' judgements of whether the speaker was satisfied.",
        "thumbs": "Nobody annotated these turns: rows are users' own thumbs.",
        "targets": "Nobody annotated these turns: rows are labels derived from the game's targets (right, partly "
        "right, wrong), not judgements of the speaker's satisfaction as in the paper.",
    }
    readings = " ".join(reading[each] for each in sorted(against))
    return f"What the decoders said about turns of {policy.upper()}, in shares of all turns. {readings}"


def _change_sentences(changes: Changes | None, grids: Sequence[Grid]) -> list[str]:
    if changes is None:
        return ["This is the first report in its folder: there is nothing to compare with."]
    if not (changes.beyond or changes.within or changes.new or changes.gone):
        return [f"Nothing: every number is what it was in the report of {changes.since}."]
    compared = len(changes.beyond)
    sentences = [
        f"Against the report of {changes.since}, {compared} {'cell' if compared == 1 else 'cells'} moved beyond the "
        f"intervals (or, for a count, at all) and {changes.within} moved within them; {len(changes.new)} are new and "
        f"{len(changes.gone)} are gone."
    ]
    if changes.new:
        first = next(grid for grid in grids if grid.number == min(changes.new)[0])
        cells = sorted(f"{first.label(row)} {column}" for table, row, column in changes.new if table == first.number)
        sentences.append(f"New in table {first.number}: {', '.join(cells)}.")
    return sentences
