"""Render the report as one self-contained HTML page that reads like a short paper.

This module decides what the page says, page.html how it looks. The template engine escapes everything that comes from
users or from a run. Figures are images, so nothing in them can reach the page.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, Literal, TypeAlias

from respect_core.errors import extra
from respect_core.measuring.evidence import Evidence, main_policy, rounds_of
from respect_core.measuring.metrics import Estimate
from respect_core.reporting import candidates
from respect_core.reporting.case_studies import CaseStudy
from respect_core.reporting.changes import Changes
from respect_core.reporting.conversations import MOST_CHARACTERS, Conversation
from respect_core.reporting.figures.confusions import decoded_policy
from respect_core.reporting.page_tables import (
    agreement,
    changed,
    comparisons,
    costs,
    decoders,
    drifts,
    follow_ups,
    reviewed,
    set_aside,
    users,
)
from respect_core.reporting.tables import Grid, Plain, Value
from respect_core.variants import CONTROL, Variant

with extra("report"):
    from jinja2 import Environment, StrictUndefined

_UNKNOWN_TIME = "1970-01-02"
"""Logs that have no time begin before."""

FigureName: TypeAlias = int | Literal["follow-ups"]
"""A figure's number in the paper, or the name of one that the paper does not have."""


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
    figures: Mapping[FigureName, PageFigure],
    cases: Sequence[CaseStudy],
    conversations: Sequence[Conversation],
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
        figures: those that could be drawn.
        conversations: shown turn by turn, as are the games in `cases`.
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
        learned=learned and _candidates({"scenario": evidence.scenario, **learned}),
        facts=_facts(evidence, facts),
        grids={grid.number: grid.plain() for grid in grids},
        figures=figures,
        words=evidence.words,
        follow_ups=follow_ups(evidence),
        set_aside=set_aside(evidence),
        conversations=conversations,
        most_characters=MOST_CHARACTERS,
        comparisons=comparisons(evidence.comparisons, evidence.words),
        agreement=agreement(evidence),
        confusion_caption=_confusion_caption(evidence),
        decoders=decoders(evidence),
        reviewed=reviewed(evidence),
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
    rows, view = tuple(candidates.rows(summary)), candidates.view(summary)
    columns, rails = candidates.rails(summary)
    return {
        "round": summary["round"],
        "findings": candidates.findings(summary),
        "table": Plain(view.caption, view.columns, rows) if rows else None,
        "rails": Plain(candidates.RAILS, columns, tuple(rails)) if rails else None,
        "remarks": candidates.remarks(summary),
        "few": candidates.FEW,
    }


def findings(evidence: Evidence) -> list[str]:
    """State what the numbers say, in a few sentences: follow-ups and success of the main policy, and CONTROL's."""
    policy, words = main_policy(evidence.cells), evidence.words
    said = [] if words.paper else _of_follow_ups(evidence, policy)
    success = {number: cell.figures.success for number, cell in sorted(evidence.cells[policy].items()) if cell.figures}
    if not success:
        return said or [
            f"{policy.upper()} has no {words.interaction} with an outcome: there is nothing to say about success."
        ]
    first, last = min(success), max(success)
    games = evidence.cells[policy][last].figures
    assert games is not None
    if first == last:
        won = round(games.success.value * games.games)
        return [
            *said,
            f"In round {last}, {policy.upper()} {words.won} {won} of {games.games} {words.interactions}: "
            f"{interval(success[last])}.",
        ]
    share = f"the share of {words.interactions} that {policy.upper()} {words.won}"
    sentences = [*said, _moved(first, last, share, success[first], success[last])]
    control = evidence.cells.get(CONTROL, {})
    if last in control and (figures := control[last].figures) and policy != CONTROL:
        sentences.append(f"The seed policy, deployed again in round {last}, {words.won} {interval(figures.success)}.")
    return sentences


def _moved(first: int, last: int, share: str, before: Estimate, after: Estimate) -> str:
    apart = after.low > before.high or after.high < before.low
    moved = ("rose" if after.value > before.value else "fell") if apart else "went"
    return (
        f"From round {first} to round {last}, {share} {moved} from {interval(before)} to {interval(after)}; "
        f"the intervals {'do not overlap' if apart else 'overlap'}."
    )


def _of_follow_ups(evidence: Evidence, policy: str) -> list[str]:
    """State the shares of negative and positive follow-ups, and how that of negative ones moved."""
    decoded = {number: cell.follow_ups for number, cell in evidence.cells[policy].items() if cell.follow_ups}
    if not decoded:
        return [f"No follow-up to {policy.upper()} was decoded: what users thought of its replies is not known."]
    first, last = min(decoded), max(decoded)
    now = decoded[last]
    sentences = [
        f"In round {last}, {interval(now.negative_follow_ups)} of {now.turns:,} follow-ups by {now.users:,} users to "
        f"replies of {policy.upper()} were decoded as negative, and {interval(now.positive_follow_ups)} as positive."
    ]
    if first < last:
        share = "the share of negative follow-ups"
        sentences.append(_moved(first, last, share, decoded[first].negative_follow_ups, now.negative_follow_ups))
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
    numbers, first = rounds_of(evidence.cells), evidence.first or ""
    facts = {
        **run,
        "Rounds": f"{numbers[0]} to {numbers[-1]}" if len(numbers) > 1 else str(numbers[0]),
        "Policies": ", ".join(policy.upper() for policy in evidence.cells),
        evidence.words.interactions.capitalize(): f"{evidence.games:,} with {evidence.turns:,} turns, by "
        f"{evidence.users:,} users",
        "Played" if evidence.words.paper else "Began": f"{first[:10]} to {(evidence.last or '')[:10]}"
        if first > _UNKNOWN_TIME
        else "",
        "Feedback decoder": ", ".join(evidence.decoders) or "none: no feedback in the store",
    }
    return [(term, text) for term, text in facts.items() if text]


def _absent(evidence: Evidence, figures: Mapping[FigureName, PageFigure], unpictured: int) -> dict[str, list[str]]:
    """List what the paper has and this page lacks, and why; on a page that is not the paper's, what is not known."""
    absent: dict[str, list[str]] = {"curve": [], "turns": [], "feedback": [], "games": []}
    if not evidence.words.paper:
        if 6 not in figures:
            absent["feedback"].append(
                "How often the decoder is right here is not known: nobody annotated these turns (`respect annotate`)."
            )
        return absent
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
    words = evidence.words
    reading = {
        "annotations": f"Rows are annotators' judgements of whether the {words.speaker} was satisfied.",
        "thumbs": "Nobody annotated these turns: rows are users' own thumbs.",
        "targets": f"Nobody annotated these turns: rows are labels derived from the {words.interaction}'s targets "
        f"(right, partly right, wrong), not judgements of the {words.speaker}'s satisfaction as in the paper.",
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
        sentences.append(f"New in {first.name}: {', '.join(cells)}.")
    return sentences
