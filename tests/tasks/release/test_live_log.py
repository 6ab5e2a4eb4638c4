"""What gateways served and rounds decoded, read as it grows."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta

import pyarrow as pa
from text_bases import small_llama

from respect_core.log.export import export_everything
from respect_core.log.log import LOGS, read_logs
from respect_core.log.records import turn_rows
from respect_core.log.served_chats import SERVED_CHATS, ServedChat
from respect_core.release.live import VersionFigures
from respect_core.schemas import FEEDBACK_SCHEMA
from respect_core.store.base import Store
from respect_core.store.manifests import partitions
from respect_core.store.tables import read_table, write_partition
from tasks.release.live_log import LiveLog
from tasks.round import collect

NEW, SEED = "respect.b-fft/2", "respect.seed/1"
NOW = datetime.now(UTC)
SECRET = "what-a-user-wrote"


def _serve(store: Store, *numbers: int, day: datetime = NOW, turns: int = 3, name: str = "a") -> None:
    """Conversations that are over, each of a user's; every other one is the seed policy's."""
    lines = []
    for number in numbers:
        said = [f"{SECRET} {number}"]
        for turn in range(turns):
            variant, version = ("b-fft", NEW) if number % 2 else ("control", SEED)
            messages = [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(said)]
            chat = ServedChat(
                id=f"r{number}-{turn}",
                time=(day - timedelta(hours=2) + timedelta(seconds=60 * number + turn)).isoformat(),
                conversation_id=f"c{number}",
                user=f"u{number}",
                scenario="chat",
                base=small_llama(),
                variant=variant,
                version=version,
                adapter_hash="0" * 64,
                round=1,
                offered=(NEW, SEED),
                background=False,
                cut=False,
                idle=1.0,
                first_token=0.2,
                seconds=1.0,
                request={"model": "respect", "messages": messages, "temperature": 1.0, "top_p": 1.0, "max_tokens": 8},
                response={"choices": [{"message": {"role": "assistant", "content": f"reply {turn}"}, "cut": False}]},
            )
            lines.append(chat.model_dump_json())
            said += [f"reply {turn}", f"{SECRET} then {turn}"]
    store.put(f"{SERVED_CHATS}/{day:%Y-%m-%d}/{name}.jsonl", "".join(f"{line}\n" for line in lines).encode())


def _decode(store: Store, decoder: str = "small", label: int = -1) -> None:
    """As a round does: a row of each kind for each follow-up; the last of each conversation is set aside."""
    collect.collect(store, now=time.time())
    export_everything(store)
    for partition in partitions(store, "turns"):
        rows = []
        for turn in read_table(store, "turns", [partition.round], [partition.variant]).to_pylist():
            if turn["follow_up"] is None:
                continue
            key = {name: turn[name] for name in ("interaction_id", "round", "variant", "turn")}
            made = {"score": 0.0, "low_margin": False, "decoder_model": decoder, "decoder_revision": "0" * 16}
            made |= {"prompt_hash": "p", "thresholds": "{}", "marked": "prompt" if turn["turn"] == 1 else None}
            rows += [key | made | {"decoder": kind, "label": label} for kind in ("binary", "ternary")]
        table = pa.Table.from_pylist(rows, FEEDBACK_SCHEMA)
        write_partition(store, "feedback", *partition, table, metadata={"decoder": {"decoder_model": decoder}})


def _by_version(log: LiveLog) -> dict[str, VersionFigures]:
    return {each.version: each for each in log.versions({("b-fft", NEW), ("control", SEED)})}


def test_follow_ups_are_counted_before_a_round_and_labelled_after_it(store: Store) -> None:
    log = LiveLog(store)
    assert not log.follow() and log.decoder is None and _by_version(log)[NEW].replies == 0
    _serve(store, *range(10))
    assert log.follow() and not log.follow()
    new = _by_version(log)[NEW]
    assert (new.conversations, new.replies, new.follow_ups, new.waiting, new.said) == (5, 15, 10, 10, None)
    _decode(store)
    assert log.follow() and not log.follow() and log.decoder == ("small", 1)
    new = _by_version(log)[NEW]
    assert (new.decoded, new.set_aside, new.waiting) == (5, 5, 0) and new.signs["negative"] == 5
    turns = [row for key in store.keys(f"{LOGS}/") for each in read_logs(store, key) for row in turn_rows(each)]
    assert sum(row["follow_up"] is not None for row in turns) == 2 * 10, "as many as are collected"


def test_what_comes_later_is_read_once_and_waits_for_the_next_round(store: Store) -> None:
    log, yesterday = LiveLog(store), NOW - timedelta(days=1)
    _serve(store, 1, 3, day=yesterday)
    log.follow()
    _decode(store)
    _serve(store, 5, name="b")
    _serve(store, 7, day=yesterday, name="late")
    assert log.follow() and not log.follow(), "the labels are read, too"
    new = _by_version(log)[NEW]
    assert (new.conversations, new.follow_ups, new.decoded, new.waiting) == (4, 8, 2, 4)


def test_labels_of_an_earlier_decoder_do_not_count(store: Store) -> None:
    log = LiveLog(store)
    _serve(store, *range(4))
    _decode(store)
    log.follow()
    (partition,) = partitions(store, "feedback", variants=["b-fft"])
    rows = read_table(store, "feedback", [1], ["b-fft"])
    write_partition(store, "feedback", *partition, rows, metadata={"decoder": {"decoder_model": "other"}})
    assert log.follow()
    counts = {version: each.decoded for version, each in _by_version(log).items()}
    assert log.decoder == ("small", 1) and counts == {NEW: 0, SEED: 2}, "until a round decodes all of them again"


def test_only_the_last_replies_are_remembered_and_none_of_their_text(store: Store) -> None:
    _serve(store, *range(4), name="a")
    _serve(store, *range(4, 8), name="b")
    log = LiveLog(store, most=12)
    log.follow()
    assert sum(each.replies for each in _by_version(log).values()) == 12
    assert {each.conversation for each in log._replies} == {f"c{number}" for number in range(4, 8)}
    assert SECRET not in json.dumps([str(each) for each in log._replies])


def test_a_record_that_no_gateway_writes_is_left_out(store: Store) -> None:
    _serve(store, 1)
    key = store.keys(f"{SERVED_CHATS}/")[0]
    record = json.loads(store.read(key).splitlines()[0])
    record["request"]["messages"] = [{"role": "nobody", "content": "x"}]
    store.put(key.replace("a.jsonl", "b.jsonl"), json.dumps(record).encode() + b"\n")
    log = LiveLog(store)
    assert log.follow() and _by_version(log)[NEW].replies == 3
