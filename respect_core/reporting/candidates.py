"""Summarise what a round's candidates learned, for terminal and report: FOR MEASURING ONLY.

Figures of few games or turns have intervals like all others, and say that they are too few to mean anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import sqrt
from typing import Any

import numpy as np

from respect_core.measuring.comparison import paired
from respect_core.measuring.judge import Words, words
from respect_core.measuring.metrics import Estimate, figures
from respect_core.release.gate import Range, is_within
from respect_core.release.gate import gate as gate_of
from respect_core.scenario import EXACT_MATCH, scenario
from respect_core.scenarios.multiref.scenario import SCENARIO
from respect_core.variants import Variant

PAPER = SCENARIO.name

FEW = 30
"""With fewer games or turns than this, a percentage means nothing, whatever its interval."""
_LEARNED = "The round's candidates: turns learned from (decoded positive, decoded negative, rehearsed); on "
DASH = "–"  # noqa: RUF001  # a dash, as in the paper's tables

Games = Mapping[str, Sequence[int]]
"""metrics.COLUMNS of each game, by context id."""


def replayed(before: Games | None, after: Games | None) -> dict[str, Any] | None:
    """Compare games won before and after on the same contexts, with intervals; None if none were played."""
    if before is None or after is None:
        return None
    contexts = sorted(before.keys() & after.keys())
    first, second = (np.array([games[each] for each in contexts]) for games in (before, after))
    shares = {name: _share(figures([games]).success) for name, games in (("before", first), ("after", second))}
    return {"games": len(first), **shares, "change": _share(paired(second, first).success)}


def wilson(hits: int, trials: int) -> dict[str, Any] | None:
    """Return a share with Wilson's 95% interval, for independent trials; None if there are none."""
    if not trials:
        return None
    z, share = 1.96, hits / trials
    middle = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    return _share(Estimate(share, middle - half, middle + half))


def shown(share: Mapping[str, Any] | None, of: int, *, signed: bool = False) -> str:
    """Format a share in percent, or a difference in points, with its interval and a note if it is of too few."""
    if share is None:
        return DASH
    value, (low, high) = share["value"], share["ci95"]
    if signed:
        text = f"{100 * value:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"
    else:
        text = f"{100 * value:.1f}% [{100 * low:.1f}, {100 * high:.1f}]"
    return text if of >= FEW else f"{text} {too_little(of)}"


def too_little(of: int) -> str:
    """Return the note for a figure of too few games or turns."""
    return f"too little ({of})"


@dataclass(frozen=True)
class View:
    """What is said of the candidates of a round, which depends on its scenario and on what was done.

    `criterion`: what replies are compared by that need not be the curated ones; None for exact match.
    """

    words: Words
    criterion: str | None
    played: bool  # whether the candidates acted in fixed games

    @property
    def validated(self) -> tuple[str, ...]:
        """The columns of what candidates learned from, and did on curated turns."""
        scores = (self.criterion,) if self.criterion else ("exact match", "sampled", "illegal")
        return ("variant", "+ / - / D0", *scores)

    @property
    def judged(self) -> tuple[str, ...]:
        """The columns of what candidates did in games, and of the gate's verdict."""
        won = (f"{self.words.won} before", f"{self.words.won} after", "change, points")
        return (*(won if self.played else ()), "gate")

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of `rows`."""
        return (*self.validated, *self.judged)

    @property
    def caption(self) -> str:
        """The caption of `rows`."""
        on_turns = (
            f"curated turns, the {self.criterion} that the candidate gives their replies, by which the checkpoint was "
            "chosen; "
            if self.criterion
            else "validation turns, greedy exact match, that of actions drawn as in play, by which the checkpoint was "
            "chosen, and illegal greedy actions; "
        )
        won = (
            f"{self.words.interactions} {self.words.won} by the seed policy and by the candidate on the same contexts, "
            "and the difference by pairs; "
        )
        gate = "whether the gate would promote it, as far as these turns tell. With 95% intervals."
        return f"{_LEARNED}{on_turns}{won if self.played else ''}{gate}"


def view(summary: Mapping[str, Any]) -> View:
    """Return what is said of a round; summaries of earlier releases, which name no scenario, are of the paper's."""
    name = summary.get("scenario", PAPER)
    criterion = scenario(name).criterion
    played = name == PAPER or any(values["played"] for values in summary["variants"].values())
    return View(words(name), None if criterion == EXACT_MATCH else criterion, played)


def rows(summary: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return a row in the columns of its view for each candidate."""
    seen = view(summary)
    return [(name.upper(), *_cells(values, seen)) for name, values in summary["variants"].items()]


def rails(summary: Mapping[str, Any]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return columns and rows of the guard rails of policies of free text; no rows where none were measured.

    A row has a guard rail, the gate's limits for the round's profile, and the candidates' figures. A figure beyond the
    limits is bold and marked.
    """
    measured = {name: each["guard_rails"] for name, each in summary["variants"].items() if each.get("guard_rails")}
    limits: dict[str, Range] = asdict(gate_of(summary.get("profile", "")).rails)
    return ("guard rail", "limits", *(name.upper() for name in measured)), [
        (
            name.replace("_", " "),
            f"{limit[0]:g} to {limit[1]:g}" if limit[0] >= 0 else f"at most {limit[1]:g}",
            *(_railed(figures.get(name), limit) for figures in measured.values()),
        )
        for name, limit in limits.items()
        if measured
    ]


def _railed(value: float | None, limit: Range) -> str:
    if value is None:
        return DASH
    return f"{value:.2f}" if is_within(value, limit) else f"**{value:.2f} beyond**"


RAILS = (
    "Guard rails: the candidates' replies to held-out prompts against the seed policy's, as ratios and as what is "
    "added to a share; distance in nats per token. Bold figures are beyond the gate's limits."
)


def findings(summary: Mapping[str, Any]) -> list[str]:
    """State what the candidates' figures say, one sentence each."""
    variants: dict[str, Mapping[str, Any]] = dict(summary["variants"])
    control = variants.pop(Variant.SHUFFLED, None)
    if not variants:
        return [f"No candidate came out of round {summary['round']}."]
    seen, turns = view(summary), max(values["val_turns"] for values in variants.values())
    match = [100 * values[_criterion(seen)] for values in variants.values()]
    illegal = [values["illegal_actions"] for values in variants.values()]
    legal = f" and illegal actions in {_span(illegal, 'd')} of {turns} validation turns"
    sentences = [
        f"Candidates of round {summary['round']}: {len(variants)}, {seen.criterion or 'exact match'} "
        f"{_span(match, '.1f', '%')}{f' on {turns} curated turns' if seen.criterion else legal}{_if_few(turns)}."
    ]
    if control:
        sentences.append(
            f"{Variant.SHUFFLED.upper()}, the control that learned from shuffled labels, has a sampled match of "
            f"{100 * control['val_sampled_match']:.1f}%: only what a candidate has beyond that comes from the labels."
        )
    if played := [values["played"] for values in variants.values() if values["played"]]:
        games, won = played[0]["games"], seen.words.won
        after = [100 * each["after"]["value"] for each in played]
        sentences.append(
            f"Of the same {games} {seen.words.interactions} the seed policy {won} "
            f"{100 * played[0]['before']['value']:.1f}%, and they {won} {_span(after, '.1f', '%')}{_if_few(games)}."
        )
    if gates := {name: values["gate"] for name, values in variants.items() if values["gate"]}:
        passing, open_ = (
            [name.upper() for name, gate in gates.items() if verdict(gate) == wanted] for wanted in (PASSES, UNDECIDED)
        )
        undecided = f"; too few {seen.words.interactions} tell of {', '.join(open_)}" if open_ else ""
        sentences.append(f"The gate would promote {', '.join(passing) if passing else 'none of them'}{undecided}.")
    return sentences


def remarks(summary: Mapping[str, Any]) -> list[str]:
    """List the gate's verdicts, oddities of training sets, users who are left out, and the variants that failed."""
    sentences = []
    for name, values in summary["variants"].items():
        if gate := values["gate"]:
            sentences.append(f"{name.upper()} {_SAID[verdict(gate)]}: {'; '.join(gate['reasons'])}.")
        sentences += [f"{name.upper()}: {warning}." for warning in values["warnings"]]
    sentences += [f"Left out of training: {each}." for each in summary.get("quarantine", ())]
    return sentences + [f"{name.upper()} failed: {reason}" for name, reason in summary["failed"].items()]


def _criterion(seen: View) -> str:
    return "val_sampled_match" if seen.criterion else "val_exact_match"


def _cells(values: Mapping[str, Any], seen: View) -> Iterator[str]:
    learned = [values[name] for name in ("positives", "negatives_used", "rehearsal_turns")]
    few = sum(learned[:2]) < FEW
    people = f", {values['by_people']} by people" if values.get("by_people") else ""
    yield " / ".join(map(str, learned)) + people + (f" {too_little(sum(learned[:2]))}" if few else "")
    gate, turns = values["gate"] or {}, values["val_turns"]
    interval, match = gate.get("exact_match_ci95"), values[_criterion(seen)]
    yield shown({"value": match, "ci95": interval}, turns) if interval else f"{100 * match:.1f}%"
    if not seen.criterion:
        yield f"{100 * values['val_sampled_match']:.1f}%"
        yield f"{values['illegal_actions']} of {turns}"
    if played := values["played"]:
        yield from (shown(played[each], played["games"]) for each in ("before", "after"))
        yield shown(played["change"], played["games"], signed=True)
    elif seen.played:
        yield from [DASH] * 3
    yield verdict(gate)


PASSES, FAILS, UNDECIDED = "passes", "does not pass", "undecided"
_SAID = {
    PASSES: "would pass the gate",
    FAILS: "would not pass the gate",
    UNDECIDED: "is left undecided by the gate",
    DASH: "was not put to the gate",
}


def verdict(gate: Mapping[str, Any]) -> str:
    """Return the gate's verdict in a word: `UNDECIDED` where there are too few games to tell."""
    promote = gate.get("promote")
    if promote is None:
        return UNDECIDED if gate.get("figures") else DASH
    return PASSES if promote else FAILS


def _share(share: Estimate) -> dict[str, Any]:
    return {"value": share.value, "ci95": [share.low, share.high]}


def _span(values: Sequence[float], form: str, unit: str = "") -> str:
    low, high = (f"{each:{form}}" for each in (min(values), max(values)))
    return f"{low}{unit}" if low == high else f"{low} to {high}{unit}"


def _if_few(of: int) -> str:
    return "" if of >= FEW else ", which is too little to tell"
