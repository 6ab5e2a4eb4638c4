"""Export in bulk: parse and validate a block of JSON lines with Arrow.

A block is accepted only if every line is a record that `respect_core.log.log.parse_record` accepts, and the result has
the rows of `turn_rows` and `outcome_row`. Any irregularity, even a space at the end of a line, rejects the block: the
caller then reads it record by record and reports what is wrong.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from datetime import datetime
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import json as arrow_json
from pydantic import BaseModel

from respect_core.log.lengths import LONGEST_UTTERANCE, spoken
from respect_core.log.records import InteractionLog, utc_day
from respect_core.scenarios.multiref import actions
from respect_core.schemas import OUTCOMES_SCHEMA, SCHEMA_VERSION, TURNS_SCHEMA, Columns
from respect_core.store.manifests import Partition


def read_columns(block: bytes, partition: Partition, taken: Set[str], images: Set[str]) -> Columns | None:
    """Read a block of whole lines, not empty, into columns; None unless each record is acceptable.

    Args:
        taken: ids of the partition's earlier interactions.
        images: what contexts may name.
    """
    try:
        records = _parse(block)
        _check_games(records, partition, taken)
        _check_images(records, images)
        turns = _Turns.of(records)
        turns.check()
        states = turns.states()
    except ValueError:  # from Arrow, for anything but records, or from a check below
        return None
    return Columns(_turns_table(records, turns, states), _outcomes_table(records, turns))


# --- parsing --------------------------------------------------------------------------------------------------

_SCALARS = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}


def _field(name: str, annotation: Any, optional: bool = False) -> pa.Field:
    """Translate a model's field for Arrow. Where a whole model may be null, Arrow's fields of it may be too."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _field(name, arguments[0], optional)
    if origin in (Union, UnionType):
        (kind,) = (each for each in arguments if each is not NoneType)
        return _field(name, kind, optional=True)
    if origin is list:
        return pa.field(name, pa.list_(_field("item", arguments[0])), optional)
    if origin is Literal:
        annotation = type(arguments[0])
    if issubclass(annotation, BaseModel):
        fields = annotation.model_fields.items()
        return pa.field(name, pa.struct([_field(each, info.annotation, optional) for each, info in fields]), optional)
    return pa.field(name, _SCALARS[annotation], optional)


RECORDS = pa.schema(_field("record", InteractionLog).type.fields)

# Arrow itself also rejects: a wrong type, a required field that is null or absent, a duplicate field.
_PARSE = arrow_json.ParseOptions(explicit_schema=RECORDS, unexpected_field_behavior="error")


def _parse(block: bytes) -> pa.RecordBatch:
    """Parse one record per line. Raises ValueError."""
    # Arrow also accepts several values on a line, or one over several lines. Within a value only one of ",]}" can
    # follow "}", so a line end between "}" and "{" separates values.
    lines = block.count(b"}\n{") + 1
    _require(block.startswith(b"{") and block.endswith((b"}", b"}\n")))
    _require(block.count(b"\n") + (not block.endswith(b"\n")) == lines)
    options = arrow_json.ReadOptions(use_threads=False, block_size=len(block))
    (records,) = arrow_json.read_json(pa.BufferReader(block), options, _PARSE).to_batches()
    records.validate(full=True)  # UTF-8
    _require(records.num_rows == lines)
    turns = records["turns"].flatten()
    absent = [records["closing"], *(turns.field(name) for name in ("state", "logp", "explicit"))]
    _require(all(column.null_count == len(column) for column in absent))  # what chats log; read one by one here
    targets, success = records["outcome"].flatten()
    _require(targets.null_count == success.null_count == records["outcome"].null_count)
    return records


def _require(condition: object) -> None:
    if not condition:
        raise ValueError("not a block of records in which nothing is unusual")


# --- checks ---------------------------------------------------------------------------------------------------


def _check_games(records: pa.RecordBatch, partition: Partition, taken: Set[str]) -> None:
    expected = {"schema_version": SCHEMA_VERSION, "scenario": "multiref", **partition._asdict()}
    for name, value in expected.items():
        _require(records[name].unique().to_pylist() == [value])
    ids = records["interaction_id"].to_pylist()
    _require(all(ids) and len(set(ids)) == len(ids) and taken.isdisjoint(ids))
    for started_at in records["started_at"].unique().to_pylist():
        datetime.fromisoformat(started_at)
    _require(pc.min(pc.binary_length(records["address_prefix"])).as_py() != 0)


def _check_images(records: pa.RecordBatch, images: Set[str]) -> None:
    context, targets = records["context"], records["outcome"].field("targets")
    sizes = pc.min_max(pc.list_value_length(context)).as_py()
    _require(sizes["min"] >= 2 and sizes["max"] <= len(actions.LETTERS))
    names = context.flatten().dictionary_encode()
    _require(images >= set(names.dictionary.to_pylist()))
    n_names = len(names.dictionary)
    context_members = _members(context, names.indices, n_names)
    target_members = _members(targets, pc.index_in(targets.flatten(), value_set=names.dictionary), n_names)
    _require(pc.count_distinct(context_members).as_py() == len(context_members))
    _require(pc.all(pc.is_in(target_members, value_set=context_members), min_count=0).as_py())


def _members(lists: pa.ListArray, names: pa.Array, n_names: int) -> pa.Array:
    """Encode the (list, name) pair of each list member as one integer, given the members' name numbers.

    Null for a member without a number.
    """
    return pc.add(pc.multiply(pc.list_parent_indices(lists), n_names), names)


@dataclass(frozen=True)
class _Turns:
    """The turns of all games, concatenated."""

    fields: pa.StructArray
    game: NDArray[np.int64]  # index of each turn's game
    number: NDArray[np.int64]  # index of each turn in its game
    offsets: pa.Array  # index of each game's first turn, and the end
    images: NDArray[np.int32]  # number of images in each turn's context

    @classmethod
    def of(cls, records: pa.RecordBatch) -> _Turns:
        turns, images = records["turns"], pc.list_value_length(records["context"]).to_numpy()
        game = pc.list_parent_indices(turns).to_numpy()
        number = np.arange(len(game)) - turns.offsets.to_numpy()[game]
        return cls(turns.flatten(), game, number, turns.offsets, images[game])

    def check(self) -> None:
        _require(np.diff(self.offsets.to_numpy()).all())
        utterances = self.fields.field("utterance")
        _require(pc.min(pc.binary_length(utterances)).as_py())
        _require(not pc.any(pc.utf8_is_space(utterances)).as_py())
        plain = pc.ascii_is_printable(utterances)  # which implies Unicode normal form
        _require((pc.max(pc.binary_length(utterances.filter(plain))).as_py() or 0) <= LONGEST_UTTERANCE)
        for text in utterances.filter(pc.invert(plain)).unique().to_pylist():
            spoken(text, "utterance", "")
        probabilities, seconds = (self.fields.field(name).drop_null().to_numpy() for name in ("probability", "seconds"))
        _require(((probabilities > 0) & (probabilities <= 1)).all())
        # Parsers differ in how they round whole numbers beyond 2**53, and in whether -0 has a sign.
        _require(((seconds >= 0) & (seconds < 2**53) & ~np.signbit(seconds)).all())

    def states(self) -> pa.Array:
        """Compute the selected letters before each turn. Raises ValueError for a non-canonical or illegal action."""
        texts = self.fields.field("action").dictionary_encode()
        parsed = [actions.parse(text) for text in texts.dictionary.to_pylist()]
        _require(list(map(str, parsed)) == texts.dictionary.to_pylist())
        which = texts.indices.to_numpy()
        deselected = np.array([_bits(each.deselect) for each in parsed])[which]
        selected = np.array([_bits(each.select) for each in parsed])[which]
        # A legal action toggles its letters: those toggled an odd number of times are selected.
        toggled = deselected | selected
        before = np.bitwise_xor.accumulate(toggled) ^ toggled  # counted from the first turn of the first game
        state = before ^ before[self.offsets.to_numpy()[self.game]]
        _require(not ((deselected & ~state) | (selected & state) | (toggled >> self.images)).any())
        return _STATES.take(pa.array(state))


def _bits(letters: str) -> int:
    return sum(1 << actions.LETTERS.index(letter) for letter in letters)


_STATES = pa.array(
    "".join(letter for number, letter in enumerate(actions.LETTERS) if bits >> number & 1)
    for bits in range(1 << len(actions.LETTERS))
)


# --- tables ---------------------------------------------------------------------------------------------------


def _turns_table(records: pa.RecordBatch, turns: _Turns, states: pa.Array) -> pa.Table:
    policy = records["policy"]
    of_game = {name: records[name] for name in ("interaction_id", "round", "variant", "scenario", "user", "context")}
    of_game |= {f"policy_{name}": policy.field(name) for name in ("name", "version")}
    of_game |= {"adapter_hash": policy.field("adapter_hash")}
    of_game |= {"address_prefix": records["address_prefix"], "signed_in": records["signed_in"]}
    started_at = records["started_at"].dictionary_encode()
    days = pa.array(map(utc_day, started_at.dictionary.to_pylist()), pa.date32())
    of_game |= {"day": days.take(started_at.indices)}
    of_turn = {name: turns.fields.field(name) for name in ("utterance", "action", "probability")}
    last = np.append(turns.number[1:], 0) == 0
    following = pa.array(np.arange(1, len(last) + 1), mask=last)
    columns = of_turn | {name: column.take(pa.array(turns.game)) for name, column in of_game.items()}
    columns |= {"turn": pa.array(turns.number), "state": states, "follow_up": of_turn["utterance"].take(following)}
    columns |= {name: pa.nulls(len(last), TURNS_SCHEMA.field(name).type) for name in ("logp", "explicit")}
    return pa.table({name: columns[name] for name in TURNS_SCHEMA.names}).cast(TURNS_SCHEMA)


def _outcomes_table(records: pa.RecordBatch, turns: _Turns) -> pa.Table:
    columns = {name: records[name] for name in ("interaction_id", "round", "variant", "scenario", "started_at")}
    columns["turns"] = pc.list_value_length(records["turns"])
    columns["targets"], columns["success"] = records["outcome"].flatten()
    columns["seconds"] = pa.ListArray.from_arrays(turns.offsets, turns.fields.field("seconds"))
    return pa.table({name: columns[name] for name in OUTCOMES_SCHEMA.names}).cast(OUTCOMES_SCHEMA)
