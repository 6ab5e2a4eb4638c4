"""Compare a report with the previous one, cell by cell: `report.json` keeps every number of the tables."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import hypot
from pathlib import Path
from typing import Any

from respect_core.measuring.metrics import Estimate
from respect_core.reporting.tables import Grid, Value

Key = tuple[int, str, str]
"""Table, row and column, e.g. (2, "b-fft", "3")."""


@dataclass(frozen=True)
class Change:
    """A cell that changed. `before` is None for a new cell, `now` for one that is gone."""

    key: Key
    before: Value | None
    now: Value | None


@dataclass(frozen=True)
class Changes:
    """Changes since the report made at `since`. `within`: cells that moved, but not beyond their intervals."""

    since: str
    beyond: tuple[Change, ...]
    within: int
    new: tuple[Key, ...]
    gone: tuple[Key, ...]


def values(grids: Sequence[Grid]) -> dict[Key, Value]:
    """Return every number in the tables."""
    return {
        (grid.number, row, column): value
        for grid in grids
        for row, across in grid.rows.items()
        for column, value in zip(grid.columns, across, strict=True)
        if value is not None
    }


def differs(before: Value, now: Value) -> bool:
    """Return whether two values differ by more than their intervals allow. Counts have none, and differ when unequal.

    The interval of the difference is by square and add (Newcombe 1998): the hypotenuse of the facing sides of the two
    intervals.
    """
    if not isinstance(before, Estimate) or not isinstance(now, Estimate):
        return before != now
    lower, upper = (before, now) if before.value < now.value else (now, before)
    return upper.value - lower.value > hypot(lower.high - lower.value, upper.value - upper.low)


def compare(before: Mapping[Key, Value], now: Mapping[Key, Value], since: str) -> Changes:
    """Compare the cells of two reports."""
    both = [key for key in now if key in before and before[key] != now[key]]
    beyond = [Change(key, before[key], now[key]) for key in both if differs(before[key], now[key])]
    return Changes(
        since=since,
        beyond=tuple(beyond),
        within=len(both) - len(beyond),
        new=tuple(key for key in now if key not in before),
        gone=tuple(key for key in before if key not in now),
    )


# --- report.json ----------------------------------------------------------------------------------------------


def to_json(facts: Mapping[str, Any], now: Mapping[Key, Value], changes: Changes | None) -> dict[str, Any]:
    """Return the contents of `report.json`: facts about the report, every number, and what changed."""
    return {
        **facts,
        "values": [_cell(key, value) for key, value in now.items()],
        "changes": changes
        and {
            "since": changes.since,
            "beyond": [
                {"table": each.key[0], "row": each.key[1], "column": each.key[2]}
                | {"before": _number(each.before), "now": _number(each.now)}
                for each in changes.beyond
            ],
            "within": changes.within,
            "new": [list(key) for key in changes.new],
            "gone": [list(key) for key in changes.gone],
        },
    }


def since_last(file: Path, now: Mapping[Key, Value]) -> Changes | None:
    """Compare with the report in `file`; None if there is none.

    A report of the same numbers is the same report: it repeats the changes that were recorded in `file`.

    Raises:
        ValueError: the file is not a report's.
    """
    if not file.is_file():
        return None
    try:
        last = json.loads(file.read_text())
        before = {_key(each): _value(each) for each in last["values"]}
        recorded, made = last["changes"], str(last["made"])
        if before != dict(now):
            return compare(before, now, made)
        return recorded and Changes(
            since=recorded["since"],
            beyond=tuple(
                Change(_key(each), _value(each["before"]), _value(each["now"])) for each in recorded["beyond"]
            ),
            within=recorded["within"],
            new=tuple((table, row, column) for table, row, column in recorded["new"]),
            gone=tuple((table, row, column) for table, row, column in recorded["gone"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{file}: not the report.json of a report ({error!r}); move it away, or name another --out"
        ) from None


def _cell(key: Key, value: Value) -> dict[str, Any]:
    return {"table": key[0], "row": key[1], "column": key[2], **_number(value)}


def _number(value: Value | None) -> dict[str, Any]:
    if isinstance(value, Estimate):
        return {"value": value.value, "low": value.low, "high": value.high}
    return {"value": value}


def _key(cell: Mapping[str, Any]) -> Key:
    return int(cell["table"]), str(cell["row"]), str(cell["column"])


def _value(cell: Mapping[str, Any]) -> Value:
    return Estimate(cell["value"], cell["low"], cell["high"]) if "low" in cell else int(cell["value"])
