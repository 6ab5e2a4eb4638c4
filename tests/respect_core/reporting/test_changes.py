"""What changed between two reports, cell by cell."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from respect_core.measuring.metrics import Estimate
from respect_core.reporting.changes import Change, Value, compare, differs, since_last, to_json

KEY, COUNT = (2, "b-fft", "1"), (6, "b-fft", "1")


def _share(value: float, half: float = 0.05) -> Estimate:
    return Estimate(value, value - half, value + half)


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        (_share(0.5), _share(0.57), False),  # 0.0707 is what two intervals of 0.05 allow
        (_share(0.5), _share(0.572), True),
        (_share(0.572), _share(0.5), True),
        (_share(0.5, 0.0), _share(0.5, 0.0), False),
        (Estimate(0.5, 0.2, 0.51), Estimate(0.6, 0.59, 0.9), True),  # the sides that face each other count
        (Estimate(0.5, 0.49, 0.8), Estimate(0.6, 0.3, 0.61), False),
        (1458, 1459, True),
        (1458, 1458, False),
    ],
)
def test_beyond_the_intervals(before: Value, now: Value, expected: bool) -> None:
    assert differs(before, now) is expected


def test_cells_that_moved_came_and_went() -> None:
    before: dict[tuple[int, str, str], Value] = {KEY: _share(0.5), (2, "b-fft", "0"): _share(0.3), COUNT: 10}
    now: dict[tuple[int, str, str], Value] = {KEY: _share(0.51), (2, "b-fft", "2"): _share(0.7), COUNT: 11}
    found = compare(before, now, "yesterday")
    assert found.beyond == (Change(COUNT, 10, 11),) and found.within == 1
    assert (found.new, found.gone) == (((2, "b-fft", "2"),), ((2, "b-fft", "0"),))


def test_the_file_goes_there_and_back_and_made_again_it_stays(tmp_path: Path) -> None:
    file, first = tmp_path / "report.json", {KEY: _share(0.5), COUNT: 10}
    assert since_last(file, first) is None
    file.write_text(json.dumps(to_json({"made": "monday"}, first, None)))
    assert since_last(file, first) is None  # the first report, made again
    second = {KEY: _share(0.9), (2, "hh", "1"): _share(1.0)}
    changes = since_last(file, second)
    assert changes is not None and changes.since == "monday"
    assert changes.beyond == (Change(KEY, _share(0.5), _share(0.9)),) and changes.gone == (COUNT,)
    file.write_text(json.dumps(to_json({"made": "tuesday"}, second, changes)))
    assert since_last(file, second) == changes
    third = since_last(file, first)
    assert third is not None and third.since == "tuesday"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"values": [{"table": 2}], "made": "x", "changes": null}'])
def test_another_file_of_that_name_is_not_overwritten(tmp_path: Path, text: str) -> None:
    file = tmp_path / "report.json"
    file.write_text(text)
    with pytest.raises(ValueError, match=r"report\.json: not the report\.json of a report .*; move it away, or name"):
        since_last(file, {KEY: _share(0.5)})
