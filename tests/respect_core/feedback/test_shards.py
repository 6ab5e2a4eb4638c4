"""Decoding shard by shard: interrupted anywhere, on either store, it gives the same table and repeats nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, ClassVar

import models
import pytest
import torch
from samples import contents, game, with_images

from respect_core.feedback import shards as feedback_shards
from respect_core.feedback.decoder import FeedbackDecoder, smollm2
from respect_core.feedback.shards import SHARDS, Decoded, decode_partition, is_decoded, shards
from respect_core.log.export import export
from respect_core.log.log import append_logs
from respect_core.log.records import LoggedTurn
from respect_core.store import manifests, tables
from respect_core.store.base import MissingKeyError, Store
from respect_core.store.manifests import Partition
from respect_core.store.open import open_store
from respect_core.utterances import Vocabulary

HERE = Partition(5, "b-fft")
IDENTITY = {"decoder_model": "test"}
SHARD = 6  # two games of three turns


class Killed(BaseException):
    """Stands for the end of the process; tests/respect_core/learning/test_kill.py ends real ones."""


class Counting(FeedbackDecoder):
    """Counts the turns that it decodes, and may end with one of its calls. What one has decoded all know."""

    known: ClassVar[dict[Any, tuple[list[dict[str, Any]], int]]] = {}

    def __init__(self, other: FeedbackDecoder, ends_in: int | None = None) -> None:
        super().__init__(other.config, other.local)
        self.calls: list[int] = []
        self.ends_in = ends_in

    def decode(self, rows: Any, *args: Any, **options: Any) -> list[dict[str, Any]]:
        self.calls.append(len(rows))
        key = repr(self.config), tuple((row["interaction_id"], row["turn"]) for row in rows)
        before = self.scorer.tokens
        if key not in self.known:
            self.known[key] = super().decode(rows, *args, **options), self.scorer.tokens - before
        found, tokens = self.known[key]
        self.scorer.tokens = before + tokens
        if len(self.calls) == self.ends_in:
            raise Killed  # all scored, nothing stored
        return found


@pytest.fixture(scope="module")
def decoder() -> FeedbackDecoder:
    return FeedbackDecoder(replace(smollm2(), dtype="float32"))


def _with_turns(store: Store, games: int = 9) -> Store:
    """Nine games: five shards, the last of three turns."""
    replies = ["no, the other one", "good, now the tall one", "yes", "undo that", "great"]
    logs = []
    for number in range(games):
        said = [f"the boat number {number}", replies[number % 5], "and a cup"]
        actions = ["select C", "deselect C select D", "select A"]
        turns = [LoggedTurn(utterance=text, action=action) for text, action in zip(said, actions, strict=True)]
        logs.append(game(f"g{number}", turns=turns))
    append_logs(with_images(store), logs)
    export(store, 5)
    return store


def _decode(store: Store, decoder: FeedbackDecoder, **options: Any) -> Decoded:
    return decode_partition(store, HERE, decoder, IDENTITY, SHARD, **options)


@pytest.fixture(scope="module")
def expected(decoder: FeedbackDecoder, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    Counting.known.clear()
    store = _with_turns(open_store(tmp_path_factory.mktemp("undisturbed")))
    counting, told = Counting(decoder), []
    done = _decode(store, counting, progress=lambda turns, total: told.append((turns, total)))
    assert (done.turns, done.found) == (18, 0)
    assert counting.calls == [6, 6, 6, 6, 3]
    assert told[-1] == (27, 27) and told == sorted(told)
    return contents(store, "feedback/")


def test_interrupted_again_and_again_it_ends_the_same(
    decoder: FeedbackDecoder, expected: dict[str, bytes], store: Store
) -> None:
    _with_turns(store)
    calls = []
    for ends_in in (1, 2, 3):  # lost with each: the shard that was being decoded
        counting = Counting(decoder, ends_in)
        with pytest.raises(Killed):
            _decode(store, counting)
        calls.append(counting.calls)
        assert not contents(store, "feedback/"), "a reader sees a part of the table"
    assert calls == [[6], [6, 6], [6, 6, 6]]
    assert len(store.keys(f"{SHARDS}/round=5/variant=b-fft/")) == 3
    last = Counting(decoder)
    done = _decode(store, last)
    assert last.calls == [6, 3]
    assert (done.turns, done.found) == (18, 12)
    assert contents(store, "feedback/") == expected
    assert not store.keys(SHARDS)
    assert _decode(store, last) == Decoded() and len(last.calls) == 2  # nothing is left to do


def test_games_that_are_not_chosen_are_not_read(decoder: FeedbackDecoder, tmp_path: Any) -> None:
    store, begun = _with_turns(open_store(tmp_path)), list[list[str]]()
    _decode(store, Counting(decoder), chosen=lambda game: game != "g1", begin=begun.append)
    assert begun == [["g0", "g2"], ["g3", "g4"], ["g5", "g6"], ["g7", "g8"]], "as they were begun with"
    games = set(tables.read_table(store, "feedback")["interaction_id"].to_pylist())
    assert games == {f"g{number}" for number in range(9)} - {"g1"}


def test_the_table_is_what_the_decoder_says_in_one_piece(
    decoder: FeedbackDecoder, expected: dict[str, bytes], tmp_path: Any
) -> None:
    store = _with_turns(open_store(tmp_path))
    _decode(store, Counting(decoder))
    key = lambda row: (row["interaction_id"], row["turn"], row["decoder"])  # noqa: E731
    found = {key(row): row for row in tables.read_table(store, "feedback").to_pylist()}
    whole = {key(row): row for row in decoder.decode(tables.read_table(store, "turns").to_pylist())}
    assert found.keys() == whole.keys() and len(found) == 36
    for name, row in whole.items():
        assert found[name]["score"] == pytest.approx(row["score"], abs=1e-4)
        assert {k: v for k, v in found[name].items() if k != "score"} == {k: v for k, v in row.items() if k != "score"}
    manifest = manifests.read_manifest(store, "feedback", *HERE)
    assert manifest is not None and manifest.parts[0].inputs == (manifests.table_input(store, "turns", *HERE),)
    assert manifest.parts[0].metadata == {"decoder": IDENTITY, "precision": "float32"}
    own = FeedbackDecoder(decoder.config, decoder.local)
    for turns in shards(tables.read_table(store, "turns").to_pylist(), 6):
        own.decode(turns)
    # Of all that went through the model, the start of each kind's prompts is not counted.
    assert 0 < manifest.parts[0].counts["tokens"] == own.tokens < own.scorer.trees.tokens


def test_shards_of_another_decoder_are_not_used_and_do_not_stay_for_long(
    decoder: FeedbackDecoder, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = _with_turns(open_store(tmp_path))
    with pytest.raises(Killed):
        _decode(store, Counting(decoder, 3))
    left = store.keys(SHARDS)
    other = Counting(FeedbackDecoder(replace(decoder.config, margin=1.0), decoder.local))
    assert _decode(store, other).found == 0
    assert sum(other.calls) == 27
    assert store.keys(SHARDS) == left, "somebody may still be at it"
    monkeypatch.setattr(tables, "LEFT_OVER", -60.0)
    for key in store.keys("feedback/"):
        store.delete(key)
    _decode(store, Counting(decoder))
    assert not store.keys(SHARDS)


def test_feedback_that_the_store_lost_is_decoded_again(
    decoder: FeedbackDecoder, expected: dict[str, bytes], tmp_path: Any
) -> None:
    store = _with_turns(open_store(tmp_path))
    _decode(store, Counting(decoder))
    (part,) = store.keys("feedback/round=5/variant=b-fft/part-")
    store.delete(part)
    assert not is_decoded(store, HERE, IDENTITY)
    _decode(store, Counting(decoder))
    assert contents(store, "feedback/") == expected


def test_a_shard_that_somebody_else_finished_is_taken_over(
    decoder: FeedbackDecoder, expected: dict[str, bytes], tmp_path: Any
) -> None:
    """Another worker, at the same time on the same partition."""
    store = _with_turns(open_store(tmp_path))
    with pytest.raises(Killed):
        _decode(store, Counting(decoder, 4))
    ahead = contents(store, SHARDS)
    for key in list(ahead)[1:]:
        store.delete(key)

    class Slower(Counting):
        def decode(self, rows: Any, *args: Any, **options: Any) -> list[dict[str, Any]]:
            found = super().decode(rows, *args, **options)
            for key, data in ahead.items():
                store.put(key, data)
            return found

    slower = Slower(decoder)
    _decode(store, slower)
    assert len(slower.calls) <= 3  # its first, and those that the other had not done
    assert contents(store, "feedback/") == expected


def test_turns_beyond_the_policies_vocabulary_are_counted(decoder: FeedbackDecoder, tmp_path: Any) -> None:
    store = open_store(tmp_path)
    said = ["the boat", "no, the \u9ce5", "\U0001f44d \U0001f44d", "caf\u00e9", "a\u200bcup"]
    turns = [LoggedTurn(utterance=text, action=f"select {letter}") for text, letter in zip(said, "ABCDE", strict=True)]
    append_logs(with_images(store), [game("g1", turns=turns)])
    export(store, 5)
    assert feedback_shards.count_unreadable(store, 5) is None
    _decode(store, decoder, vocabulary=Vocabulary(models.base().processor.tokenizer))
    assert feedback_shards.count_unreadable(store, 5) == 2
    assert feedback_shards.count_unreadable(store, 4) is None


def test_turns_that_were_never_exported(decoder: FeedbackDecoder, store: Store) -> None:
    with pytest.raises(MissingKeyError, match="turns/round=5"):
        _decode(store, decoder)


def test_shards_hold_whole_interactions_and_no_more_than_one_is_read() -> None:
    read = 0

    def rows() -> Iterator[dict[str, Any]]:
        nonlocal read
        for number in range(1_000_000):
            read += 1
            yield {"interaction_id": f"g{number // 7}", "turn": number % 7}

    for number, shard in enumerate(shards(rows(), 4096)):
        assert 4096 <= len(shard) < 4096 + 7
        assert (shard[0]["turn"], shard[-1]["turn"]) == (0, 6)
        assert read <= (number + 1) * (4096 + 7) + 1
        if number == 5:
            break


def test_the_grouping_depends_on_the_turns_alone() -> None:
    rows = [{"interaction_id": f"g{number // 5}", "turn": number % 5} for number in range(100)]
    found = [len(shard) for shard in shards(rows, 12)]
    assert found == [15] * 6 + [10]
    assert [row for shard in shards(rows, 12) for row in shard] == rows


def test_out_of_memory_halves_the_tokens_of_a_pass(
    decoder: FeedbackDecoder, monkeypatch: pytest.MonkeyPatch, tmp_path: Any, caplog: Any
) -> None:
    """A device that lacks one token for the largest pass. The table is the same up to rounding."""
    store = _with_turns(open_store(tmp_path))
    small = FeedbackDecoder(decoder.config, decoder.local)
    hidden: Callable[..., torch.Tensor] = small.scorer.trees.hidden
    sizes, limit = [], 10**6

    def limited(prefix: list[int], tree: Any) -> torch.Tensor:
        if len(tree) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory")
        sizes.append(len(tree))
        return hidden(prefix, tree)

    monkeypatch.setattr(small.scorer.trees, "hidden", limited)
    expected = {(r["interaction_id"], r["turn"], r["decoder"]): r["score"] for r in _scores(store, small, "large")}
    limit = max(sizes) - 1
    found = {(r["interaction_id"], r["turn"], r["decoder"]): r["score"] for r in _scores(store, small, "small")}
    assert small.scorer.token_budget < decoder.config.token_budget
    assert "continuing with 192 tokens at once" in caplog.text
    assert found == pytest.approx(expected, abs=1e-4)


def _scores(store: Store, decoder: FeedbackDecoder, name: str) -> list[dict[str, Any]]:
    decode_partition(store, HERE, decoder, {"decoder_model": name}, feedback_shards.TURNS)
    rows: list[dict[str, Any]] = tables.read_table(store, "feedback").to_pylist()
    return rows
