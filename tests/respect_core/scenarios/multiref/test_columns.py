"""Blocks of log lines as columns: the same tables and problems as record by record, whatever the lines hold."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from broken_records import BROKEN
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from samples import IMAGES, contents, game, line, logs, with_images

from respect_core.log import blocks
from respect_core.log.export import export
from respect_core.log.records import InteractionLog, outcome_row, turn_rows
from respect_core.scenarios.multiref import columns as columns_module
from respect_core.scenarios.multiref.columns import Columns, read_columns
from respect_core.store.manifests import Partition, read_manifest
from respect_core.store.open import open_store

FOLDER = "interactions/round=5/variant=b-fft/"
GOOD = line(game("good"))


def columns(block: bytes, taken: frozenset[str] = frozenset()) -> Columns | None:
    return read_columns(block, Partition(5, "b-fft"), taken, set(IMAGES))


def json_line(log: InteractionLog) -> bytes:
    return log.model_dump_json().encode() + b"\n"


# --- what is taken and what is refused ------------------------------------------------------------------------


@pytest.mark.heavy
@given(batch=st.lists(logs(), min_size=1, max_size=6, unique_by=lambda log: log.interaction_id))
def test_a_block_of_good_records_is_taken(batch: list[InteractionLog]) -> None:
    found = columns(b"".join(map(json_line, batch)))
    assert found is not None
    assert found.turns.to_pylist() == [row for log in batch for row in turn_rows(log)]
    assert found.outcomes.to_pylist() == [outcome_row(log) for log in batch]


@pytest.mark.parametrize("data", [case[1] for case in BROKEN], ids=[case[0] for case in BROKEN])
def test_a_block_with_a_broken_record_is_refused(data: bytes) -> None:
    assert columns(GOOD) is not None
    assert columns(GOOD + data) is None and columns(data.rstrip() + b"\n" + GOOD) is None


def test_what_only_some_logs_have_is_read_record_by_record() -> None:
    record = json.loads(GOOD)
    for fields in ({"explicit": -1}, {"logp": -2.5}):
        turns = [turn | fields for turn in record["turns"]]
        assert columns(json.dumps(record | {"turns": turns}).encode() + b"\n") is None
    assert columns(json.dumps(record | {"closing": "never mind"}).encode() + b"\n") is None


def test_a_block_with_a_record_that_does_not_fit_is_refused() -> None:
    assert columns(GOOD, frozenset({"good"})) is None, "the id is taken"
    assert columns(GOOD + GOOD) is None, "the id is there twice"
    assert columns(line(game(round=6))) is None
    assert columns(line(game(variant="t-kto"))) is None
    assert columns(line(game(context=[*IMAGES[:9], "image-unheard-of"]))) is None
    for length, text in ((500, "x"), (27, "\ufdfa")):
        said = [{"utterance": text * length, "action": "select A"}]
        assert columns(line(game(), turns=said)) is not None
        assert columns(line(game(), turns=[said[0] | {"utterance": text * (length + 1)}])) is None


def test_every_constraint_of_the_models_is_known() -> None:
    """Who adds a field or a constraint to the log must think of `log_columns`; then add it here."""
    text = {"type": "string"}
    names = {"type": "array", "items": text}
    absent = {"type": "null"}
    schema = InteractionLog.model_json_schema()
    models = {"InteractionLog": schema, **schema["$defs"]}
    known = {
        name: {each: _bare(value) for each, value in model["properties"].items()} for name, model in models.items()
    }
    assert known == {
        "InteractionLog": {
            "schema_version": {"type": "integer", "minimum": 1, "maximum": 1, "default": 1},
            "interaction_id": text | {"minLength": 1},
            "scenario": text | {"default": "multiref"},
            "round": {"type": "integer", "minimum": 0},
            "variant": text | {"minLength": 1},
            "policy": {"$ref": "#/$defs/PolicyIdentity"},
            "user": text,
            "consent": {"anyOf": [text, absent], "default": None},
            "address_prefix": {"anyOf": [text | {"minLength": 1}, absent], "default": None},
            "signed_in": {"anyOf": [{"type": "boolean"}, absent], "default": None},
            "started_at": text,
            "context": names,
            "turns": {"type": "array", "items": {"$ref": "#/$defs/LoggedTurn"}, "minItems": 1},
            "closing": {"anyOf": [text | {"minLength": 1}, absent], "default": None},  # read one by one
            "outcome": {"anyOf": [{"$ref": "#/$defs/Outcome"}, absent], "default": None},
        },
        "PolicyIdentity": {
            "name": text,
            "version": text,
            "adapter_hash": {"anyOf": [text, absent], "default": None},
        },
        "LoggedTurn": {
            "utterance": text | {"minLength": 1},
            "state": {"anyOf": [text, absent], "default": None},  # read one by one, as are logp and explicit
            "action": text,
            "probability": {
                "anyOf": [{"type": "number", "exclusiveMinimum": 0, "maximum": 1}, absent],
                "default": None,
            },
            "logp": {"anyOf": [{"type": "number", "maximum": 0}, absent], "default": None},
            "explicit": {"anyOf": [{"enum": [-1, 1], "type": "integer"}, absent], "default": None},
            "seconds": {"anyOf": [{"type": "number", "minimum": 0}, absent], "default": None},
        },
        "Outcome": {"targets": names, "success": {"type": "boolean"}},
    }


def _bare(schema: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in schema.items() if name not in ("title", "description")}


def test_arrow_and_python_agree_on_what_is_blank() -> None:
    characters = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000]
    assert pc.utf8_is_space(pa.array(characters)).to_pylist() == [each.isspace() for each in characters]


def test_lines_are_numbered_across_blocks_and_lines_over_the_limit(tmp_path: Path) -> None:
    """A line over the limit fills blocks of its own, one is refused by halves, and line numbers go on."""
    store = with_images(open_store(tmp_path))
    good = (line(game(f"g{number}")) for number in range(20))
    lines = [
        each for _ in range(5) for each in (next(good), b"x" * 20_000 + b"\n", next(good), b"{\n", b"\n", next(good))
    ]
    data = b"".join(lines)
    store.put(FOLDER + "a.jsonl", data)
    with patch.multiple(blocks, BLOCK=4000, SMALL_BLOCK=800, LINE_LIMIT=5000):
        report = export(store, 5)
    found = [json.loads(each) for key in store.keys("set_aside/") for each in store.read(key).splitlines()]
    expected = [6 * number + each for number in range(5) for each in (2, 4)]
    assert [each["record"] for each in found] == [f"line {number}" for number in expected]
    assert (report.games, report.set_aside) == (15, 10)
    manifest = read_manifest(store, "turns", 5, "b-fft")
    assert manifest is not None and manifest.parts[0].inputs[0].sha256 == hashlib.sha256(data).hexdigest()


# --- both ways, of logs that are damaged ----------------------------------------------------------------------

_NUMBERS = ["0", "-0", "-0.0", "1", "1.0", "5", "5.0", "5e0", "05", "-1", "1e-400", "1e400", "NaN", "-Infinity"]
_NUMBERS += [
    "0.1000000000000000055511151231257827021181583404541015625",
    "9007199254740993",
    "4503599627370497.5",
    "1" * 400,
]
_NUMBERS += [
    "9223372036854775808",
    "123456789012345678901234567890",
    "2.2250738585072011e-308",
    "+1",
    ".5",
    "1.",
    "0x1",
]
_VALUES = [*_NUMBERS, "null", "true", "[]", "{}", "[null]", '["image-A"]', '["image-A","image-A"]', "[[]]", "'x'", ""]
_TEXTS = [
    "",
    " ",
    "\u3000\x85",
    "\x1c",
    "\u200b",
    "5",
    "multiref",
    "b-fft",
    "image-A",
    "image-unheard-of",
    "g0",
    "\0",
    "\x7f",
]
_TEXTS += [
    "nothing",
    "select A",
    "select B A",
    "deselect A",
    "Select A",
    "select K",
    " select A",
    "deselect A select B",
]
_TEXTS += ["2026-01-02", "20260102T030405Z", "2026-W01-1", "2026-02-30", "2026-01-02 03:04:05.5+01:00", "2026-01-02T3"]
_ESCAPES = [
    '"\\u0041"',
    '"\\ud83d\\ude00"',
    '"\\ud83d"',
    '"\\ude00"',
    '"\\/"',
    '"\\x"',
    '"\\u00e"',
    '"\\u0000"',
    '"é\u2028"',
]
_BYTES = [b"\n", b"\r\n", b"\r", b" ", b"\t", b"\x0b", b"\0", b"\xff", b"\xed\xa0\x80", b"\xef\xbb\xbf", b'"', b"\\"]
_BYTES += [b"{", b"}", b"[", b"]", b",", b":", b"{}", b"}{", b"}\n{", b"//", b"/**/", b"e", b"\xc3\xa9"]


class _Verbatim(str):
    """JSON that is put into a line as it is."""


@st.composite
def _damaged_lines(draw: st.DrawFn) -> bytes:
    """A record, most often changed in one of many small ways, as a line or what is left of one."""
    log = draw(logs(st.sampled_from("abcdefgh")))
    fields = json.loads(log.model_dump_json())
    if draw(st.booleans()):
        where: Any = fields
        while True:
            key = draw(st.sampled_from(sorted(where) if isinstance(where, dict) else range(len(where))))
            if not (isinstance(where[key], dict | list) and where[key]) or draw(st.integers(0, 4)) == 0:
                break
            where = where[key]
        value = draw(
            st.sampled_from(_TEXTS)
            | st.sampled_from([*_VALUES, *_ESCAPES]).map(_Verbatim)
            | st.floats().map(lambda number: _Verbatim(repr(number)))
            | st.decimals(0, 1, places=25).map(lambda number: _Verbatim(f"{number:f}"))
        )
        change = draw(st.sampled_from(["replace", "replace", "remove", "add", "repeat"]))
        if change == "replace":
            where[key] = value
        elif change == "remove":
            del where[key]
        elif isinstance(where, list):
            where.insert(key, where[key] if change == "repeat" else value)
        elif change == "add":
            where[draw(st.sampled_from(["surplus", "", "round", "adapter_hash", "seconds"]))] = value
        else:
            where["\0" + key] = value  # another field of that name, which JSON does not forbid
    spaces = draw(st.sampled_from([(",", ":"), (", ", ": "), (" ,\t", "\r: ")]))
    data = bytearray(_dump(fields, spaces, draw(st.booleans())).encode("utf-8", "surrogatepass") + b"\n")
    if draw(st.integers(0, 3)) == 0:
        place = draw(st.sampled_from([0, 1, len(data) - 2, len(data) - 1, len(data)]) | st.integers(0, len(data)))
        data[place : place + draw(st.integers(0, 2))] = draw(st.sampled_from(_BYTES))
    return bytes(data)


def _dump(value: Any, spaces: tuple[str, str], ascii_only: bool) -> str:
    """`json.dumps` that knows `_Verbatim`, and takes the mark off the name of a field that is there twice."""
    if isinstance(value, dict):
        members = (
            f"{json.dumps(key.lstrip(chr(0)))}{spaces[1]}{_dump(each, spaces, ascii_only)}"
            for key, each in value.items()
        )
        return "{" + spaces[0].join(members) + "}"
    if isinstance(value, list):
        return "[" + spaces[0].join(_dump(each, spaces, ascii_only) for each in value) + "]"
    return str(value) if isinstance(value, _Verbatim) else json.dumps(value, ensure_ascii=ascii_only)


_PROPERTY = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@pytest.mark.heavy
@_PROPERTY
@given(objects=st.lists(st.lists(_damaged_lines(), min_size=1, max_size=6).map(b"".join), min_size=1, max_size=2))
def test_both_ways_give_the_same_tables_and_problems(
    tmp_path_factory: pytest.TempPathFactory, objects: list[bytes]
) -> None:
    """To the byte, manifests included. Blocks are small, so that lines fall into several."""
    found = []
    taken = 0

    def counted(*arguments: Any) -> Columns | None:
        nonlocal taken
        result = read_columns(*arguments)
        taken += result is not None
        return result

    for reader in (counted, lambda *_: None):
        store = with_images(open_store(tmp_path_factory.mktemp("store")))
        for number, data in enumerate(objects):
            store.put(f"{FOLDER}{number}.jsonl", data)
        small = patch.multiple(blocks, BLOCK=2500, SMALL_BLOCK=800, LINE_LIMIT=5000)
        with small, patch.object(columns_module, "read_columns", reader):
            export(store, 5)
        found.append(
            {
                key: data
                for prefix in ("turns/", "outcomes/", "set_aside/")
                for key, data in contents(store, prefix).items()
            }
        )
    event(f"blocks read as columns: {min(taken, 3)}")
    assert found[0] == found[1]
