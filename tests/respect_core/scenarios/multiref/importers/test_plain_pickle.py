"""Pickles of plain data: numbers in, everything else refused and never run."""

from __future__ import annotations

import collections
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from respect_core.scenarios.multiref.importers.plain_pickle import PickleError, load

# What NumPy's scalars look like when written by NumPy 1, whose module had another name.
_OLD_NAME, _NEW_NAME = b"numpy.core.multiarray", b"numpy._core.multiarray"


class Foreign:
    """Would call a harmless function of the operating system, were it unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.getcwd, ()


def write(path: Path, value: Any, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(value, protocol=protocol))
    return path


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_plain_data_and_numpy_numbers(tmp_path: Path, protocol: int) -> None:
    plain = {"a": [1, 2.5, None, True, "é", b"x"], "b": ({"c"}, {})}
    numbers = {"f8": np.float64(2.25), "f4": np.float32(0.5), "i": np.int64(-7), "b": np.bool_(True), "u": np.uint8(9)}
    loaded = load(write(tmp_path / "x.pkl", plain | numbers, protocol))
    assert loaded == plain | {"f8": 2.25, "f4": 0.5, "i": -7, "b": True, "u": 9}
    assert {type(loaded[name]) for name in numbers} == {float, int, bool}
    assert np.isnan(load(write(tmp_path / "nan.pkl", np.float64("nan"), protocol)))
    assert load(write(tmp_path / "big.pkl", np.dtype(">f8").type(1.5), protocol)) == 1.5


def test_the_name_of_numpy_1(tmp_path: Path) -> None:
    data = pickle.dumps(np.float64(2.25), protocol=3)
    assert _NEW_NAME in data
    (tmp_path / "x.pkl").write_bytes(data.replace(_NEW_NAME, _OLD_NAME))
    assert load(tmp_path / "x.pkl") == 2.25


@pytest.mark.parametrize("protocol", range(6))
def test_a_foreign_class_is_refused_and_never_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: int
) -> None:
    path = write(tmp_path / "x.pkl", {"game": Foreign()}, protocol)
    run = []
    monkeypatch.setattr(os, "getcwd", lambda: run.append("run"))
    with pytest.raises(
        PickleError, match=r"x\.pkl: it names (posix|nt)\.getcwd, which could run code; .*written again"
    ):
        load(path)
    assert run == []


@pytest.mark.parametrize(
    "value",
    [collections.OrderedDict(a=1), np.zeros(2), np.datetime64("2026-01-01"), Path("x"), complex, len, np.str_("a")],
    ids=repr,
)
def test_other_classes_are_refused(tmp_path: Path, value: Any) -> None:
    with pytest.raises(PickleError, match=r"it names|only numbers are admitted"):
        load(write(tmp_path / "x.pkl", [value]))


def test_persistent_ids_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.pkl").write_bytes(b"Psomewhere\n.")
    with pytest.raises(PickleError, match="refers to data outside the file"):
        load(tmp_path / "x.pkl")


def test_files_that_are_no_pickles(tmp_path: Path) -> None:
    data = pickle.dumps({"a": ["text"] * 3, "b": np.float64(1)})
    for length in range(len(data)):
        (tmp_path / "cut.pkl").write_bytes(data[:length])
        with pytest.raises(PickleError, match=r"cut\.pkl: .*; download it again"):
            load(tmp_path / "cut.pkl")
    for content in (b"\x80\x04]\x94(h\x07e.", b"}(.", b"not a pickle", b"\x80\x63."):
        (tmp_path / "odd.pkl").write_bytes(content)
        with pytest.raises(PickleError, match=r"odd\.pkl: "):
            load(tmp_path / "odd.pkl")
    with pytest.raises(PickleError, match="check the path"):
        load(tmp_path / "absent.pkl")


def test_size_limit(tmp_path: Path) -> None:
    path = write(tmp_path / "x.pkl", "a" * 1000)
    with pytest.raises(PickleError, match="over the limit of 999; split it"):
        load(path, size_limit=999)


def _nested(depth: int, wrap: bytes) -> bytes:
    """A key of a dictionary: tuples in tuples, in a file of a few bytes each."""
    return b"}" + b"N" + wrap * depth + b"Ns."


@pytest.mark.parametrize("wrap", [b"\x85", b"(N\x85t", b"q\x00h\x00\x86"], ids=["TUPLE1", "TUPLE", "memo"])
def test_depth_that_the_interpreter_does_not_survive_is_refused(tmp_path: Path, wrap: bytes) -> None:
    (tmp_path / "x.pkl").write_bytes(_nested(1_000_000 // len(wrap), wrap))
    with pytest.raises(PickleError, match=r"x\.pkl: .*(deep|damaged)"):
        load(tmp_path / "x.pkl")


def test_long_and_shared_data_are_not_deep(tmp_path: Path) -> None:
    """Nor is what is appended in many batches, as pickle writes long lists, or nested as often as the limit allows."""
    shared = ("a", 1)
    deep: Any = 1
    for _ in range(50):
        deep = (deep,)
    value = {"long": [[number] for number in range(9_000)], "wide": dict.fromkeys(range(9_000), shared)}
    for protocol in range(6):
        assert load(write(tmp_path / "x.pkl", value, protocol)) == value
    assert load(write(tmp_path / "x.pkl", deep)) == deep
    with pytest.raises(PickleError, match="more than 50 deep"):
        load(write(tmp_path / "x.pkl", (deep,)))


@pytest.mark.parametrize("put", [b"r\x00\x00\x00\x10", b"q\xff", b"p268435456\n", b"p-1\n"])
def test_a_memo_larger_than_the_file_is_refused(tmp_path: Path, put: bytes) -> None:
    (tmp_path / "x.pkl").write_bytes(b"N" + put + b".")
    with pytest.raises(PickleError, match=r"place -?\d+ of its memo"):
        load(tmp_path / "x.pkl")


@pytest.mark.parametrize("data", [b'{"games": []}', b"[]", b"<!DOCTYPE html>", b"\n"])
def test_a_file_of_another_kind_is_not_asked_for_again(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "games.json").write_bytes(data)
    with pytest.raises(PickleError, match="no pickle, it begins with") as refused:
        load(tmp_path / "games.json")
    assert "download it again" not in str(refused.value)
