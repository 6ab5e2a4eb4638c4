"""The table of docs/performance.md, from the records of runs/bench, and the floors of the quick form."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.bench.record import Record

BEGIN, END = "<!-- bench: written by python -m tests.bench -->", "<!-- /bench -->"
FLOORS = Path(__file__).parent / "floors.json"
HEADER = (
    "| case | model | turns | ours | peer | ratio (pairs) | bar | tokens | FLOPs | equal results |\n"
    "|---|---|---|---|---|---|---|---|---|---|\n"
)


def table(records: Sequence[Record]) -> str:
    """Markdown, a row for each record."""
    return HEADER + "".join(_row(record) for record in records)


def _row(record: Record) -> str:
    return f"| {' | '.join(_cells(record))} |\n"


def _cells(record: Record) -> list[str]:
    ratio = "" if record.ratio is None else f"**{record.ratio:.2f}x**"
    if record.spread:
        ratio += f" ({record.spread[0]:.2f}-{record.spread[1]:.2f})"
    bar = "reported"
    if record.bar is not None and record.ratio is not None:
        bar = f"{record.bar:g}x {'met' if record.ratio >= record.bar else '**missed**'}"
    peer = record.peer_name if record.peer is None else f"{_short(record.peer)}, {record.peer_name}"
    return [
        record.case,
        record.size,
        "" if record.turns_per_game is None else str(record.turns_per_game),
        f"{_short(record.ours)} {record.unit}",
        peer,
        ratio,
        bar,
        _times(record.tokens_peer, record.tokens_ours),
        _times(record.flops_peer, record.flops_ours),
        record.equality,
    ]


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _times(peer: float | None, ours: float | None) -> str:
    """How many times as much the peer needs."""
    return f"{peer / ours:.2f}x" if peer and ours else ""


def write(records: Sequence[Record], missing: Sequence[str], document: Path) -> None:
    """Put the table, what it ran on, and each case's commit between the markers of a document.

    Rows of missing cases stay as they are there, with their commit; a case without any is named.

    Raises:
        ValueError: no markers in it.
    """
    text = document.read_text()
    if BEGIN not in text or END not in text:
        raise ValueError(f"{document} has no place for the table: {BEGIN} and {END}")
    before, _, rest = text.partition(BEGIN)
    block, _, after = rest.partition(END)
    rows, kept = _kept(block, missing)
    known: dict[str, set[str]] = {}
    commits: dict[str, set[str]] = {}
    for record in records:
        rows.append((record.case, _row(record)))
        for name, value in record.versions.items():
            known.setdefault(name, set()).add(value)
        commits.setdefault(record.versions.get("commit", "unknown"), set()).add(record.case)
    ran = ", ".join(f"{name} {' and '.join(sorted(known[name]))}" for name in known if name != "commit")
    said = f"Measured with {ran}. Commits: {_by_commit(commits)}."
    if kept:
        said += f" Kept from earlier runs ({_by_commit(kept)})."
    if without := sorted(set(missing) - {case for case, _ in rows}):
        said += f" Not measured: {', '.join(without)}."
    lines = "".join(row for _, row in sorted(rows, key=lambda of_case: of_case[0]))
    document.write_text(f"{before}{BEGIN}\n{HEADER}{lines}\n{said}\n{END}{after}")


def _by_commit(commits: Mapping[str, set[str]]) -> str:
    return "; ".join(f"{commit}: {', '.join(sorted(cases))}" for commit, cases in sorted(commits.items()))


def _kept(block: str, cases: Sequence[str]) -> tuple[list[tuple[str, str]], dict[str, set[str]]]:
    """Rows of these cases in what was written before, with their case; and the cases of each commit."""
    rows = [(line.split("|")[1].strip(), line + "\n") for line in block.splitlines() if line.startswith("| ")]
    kept = [(case, row) for case, row in rows if case in cases]
    commits: dict[str, set[str]] = {}
    for commit, names in re.findall(r"([\w ]+): ([\w, -]+)", block.rpartition("Commits: ")[2]):
        if of := set(names.split(", ")) & {case for case, _ in kept}:
            commits[commit.strip()] = of
    return kept, commits


def below_floor(records: Sequence[Record]) -> list[str]:
    """A sentence for each record whose ratio is under its floor, or that has none.

    Ratios of time have floors near half of what a quiet machine shows. Ratios of tokens do not depend on its load, so
    their floors, called "<key> tokens", lie close below what they are.
    """
    floors: dict[str, float] = json.loads(FLOORS.read_text())
    wrong = []
    for record in records:
        floor = floors.get(record.key)
        if floor is None:
            wrong.append(f"{record.key} has no floor in {FLOORS.name}; measured {record.ratio}")
        elif record.ratio is None or record.ratio < floor:
            wrong.append(
                f"{record.key}: {record.ratio or 0:.2f} times {record.peer_name}, below its floor of {floor:g}; "
                f"single pairs gave {record.spread}"
            )
        tokens = floors.get(f"{record.key} tokens")
        found = record.tokens_peer / record.tokens_ours if record.tokens_peer and record.tokens_ours else 0.0
        if tokens is not None and found < tokens:
            wrong.append(f"{record.key}: the peer runs {found:.3f} times our tokens, and should run {tokens:g} times")
    return wrong
