"""Export: logs to tables, on a directory and on S3; what is broken, repeated, killed, or large."""

from __future__ import annotations

import errno
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import nullcontext, suppress
from pathlib import Path
from threading import Event
from typing import Any, BinaryIO

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from samples import IMAGES, contents, game, line, logs, with_images

from respect_core.interaction import Interaction, interactions
from respect_core.log import blocks
from respect_core.log import export as export_module
from respect_core.log.export import export
from respect_core.log.log import append_logs
from respect_core.log.records import InteractionLog, from_log
from respect_core.store.base import Store, StoreError
from respect_core.store.manifests import Manifest, TableError, read_manifest
from respect_core.store.open import open_store
from respect_core.store.tables import read_table

FOLDER = "interactions/round=5/variant=b-fft/"
TABLES = ("turns/", "outcomes/", "set_aside/")


def tables(store: Store) -> dict[str, bytes]:
    return {key: data for prefix in TABLES for key, data in contents(store, prefix).items()}


def exported(store: Store) -> list[Interaction]:
    return interactions(read_table(store, "turns").to_pylist())


def set_aside(store: Store) -> list[dict[str, str]]:
    return [json.loads(each) for key in store.keys("set_aside/") for each in store.read(key).splitlines()]


def test_a_closing_message_counts_as_a_follow_up(store: Store) -> None:
    append_logs(with_images(store), [game("g1"), game("g2", closing="thanks, that is all")])
    report = export(store, 5)
    assert (report.turns, report.turns_with_followup) == (6, 5)


def test_tables_of_a_game(store: Store) -> None:
    append_logs(with_images(store), [game("g1"), game("g2", outcome=None)])
    report = export(store, 5)
    assert (report.games, report.turns, report.turns_with_followup, report.set_aside) == (2, 6, 4, 0)
    assert (report.variants, report.new_objects, report.unchanged_objects) == (["b-fft"], 1, 0)
    rows = read_table(store, "turns", [5], ["b-fft"]).to_pylist()
    assert [
        (row["interaction_id"], row["turn"], row["state"], row["action"], row["follow_up"]) for row in rows[:3]
    ] == [
        ("g1", 0, "", "select C", "no, the other one"),
        ("g1", 1, "C", "deselect C select D", "and a cup"),
        ("g1", 2, "D", "select A", None),
    ]
    assert exported(store) == [from_log(game("g1")), from_log(game("g2"))]
    outcomes = read_table(store, "outcomes").to_pylist()
    assert outcomes[0]["targets"] == ["image-A", "image-D"] and outcomes[0]["success"] is True
    assert outcomes[0]["seconds"] == [1.5, None, None]
    assert (outcomes[1]["targets"], outcomes[1]["success"]) == (None, None)
    manifest = read_manifest(store, "turns", 5, "b-fft")
    assert manifest is not None
    (source,) = manifest.parts[0].inputs
    assert source.key == store.keys(FOLDER)[0] and source.size == len(store.read(source.key))


def test_incremental_and_idempotent(store: Store) -> None:
    append_logs(with_images(store), [game("g1")])
    export(store, 5)
    first = tables(store)
    report = export(store, 5)
    assert (report.games, report.new_objects, report.unchanged_objects) == (1, 0, 1)
    assert tables(store) == first
    append_logs(store, [game("g2")])
    report = export(store, 5)
    assert (report.games, report.new_objects, report.unchanged_objects) == (2, 1, 1)
    parts = {key for key in first if "part-" in key}
    assert parts < set(tables(store)) and all(tables(store)[key] == first[key] for key in parts), "parts are kept"
    assert [each.interaction_id for each in exported(store)] == ["g1", "g2"]


def test_a_second_export_writes_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    append_logs(with_images(store), [game("g1")])
    export(store, 5)

    def refuse(*_: object) -> None:
        raise AssertionError("written")

    for name in ("put", "put_file", "put_if", "delete"):
        monkeypatch.setattr(type(store), name, refuse)
    assert export(store, 5).games == 1


def test_rounds_and_variants_are_exported_by_themselves(store: Store) -> None:
    with_images(store)
    for round, variant in ((4, "b-fft"), (5, "b-fft"), (5, "t-kto")):
        append_logs(store, [game("g1", round=round, variant=variant)])
    assert export(store, 5, ["t-kto"]).variants == ["t-kto"]
    assert read_table(store, "turns").num_rows == 3
    report = export(store, 5)
    assert (report.variants, report.games, report.new_objects) == (["b-fft", "t-kto"], 2, 1)
    assert export(store, 7).games == 0


def test_broken_records_are_set_aside_and_the_rest_goes_on(store: Store) -> None:
    turn = {"utterance": "a boat", "action": "select A"}
    broken = [
        (line(game("b0"))[:-30] + b"\n", ""),
        (line(game("b1"), round="5"), "round"),
        (line(game("b2"), context=[*IMAGES[:9], "image-unheard-of"]), "context"),
        (line(game("b3"), turns=[turn | {"action": "select K"}]), "turns[0].action"),
        (line(game("b4"), turns=[turn | {"action": "deselect A"}]), "turns[0].action"),
        (line(game("b5"), turns=[turn | {"utterance": ""}]), "turns[0].utterance"),
        (
            line(game("b5a"), turns=[turn, turn | {"utterance": "\ufdfa" * 500, "action": "select B"}]),
            "turns[1].utterance",
        ),
        (line(game("b5b"), turns=[turn | {"utterance": "x" * 501}]), "turns[0].utterance"),
        (line(game("b6"), policy=None), "policy"),
        (line(game("b7"), schema_version=9), "schema_version"),
        (line(game("b8")).replace(b"boat", b"\xc3\x28"), ""),
        (line(game("b9"), round=6), "round"),
        (line(game("b10"), variant="t-rl"), "variant"),
        (line(game("b11"), user="x" * (blocks.LINE_LIMIT + 5)), ""),
        (line(game("good0"), user="someone else"), "interaction_id"),
    ]
    data = b"".join(line(game(f"good{number}")) + each for number, (each, _) in enumerate(broken))
    store.put(FOLDER + "a.jsonl", b"\n" + data + line(game("last")).rstrip())
    report = export(with_images(store), 5)
    assert (report.games, report.set_aside) == (len(broken) + 1, len(broken))
    found = set_aside(store)
    assert [each["field"] for each in found] == [field for _, field in broken]
    assert [each["record"] for each in found] == [f"line {3 + 2 * number}" for number in range(len(broken))]
    assert all(each["object"] == FOLDER + "a.jsonl" and each["reason"] and each["remedy"] for each in found)
    assert {each.interaction_id for each in exported(store)} == {f"good{n}" for n in range(len(broken))} | {"last"}
    first = next(row for row in read_table(store, "turns").to_pylist() if row["interaction_id"] == "good0")
    assert first["user"] == "0123456789abcdef", "of two records with one id the first wins"


def test_an_object_of_nothing_but_broken_records(store: Store) -> None:
    store.put(FOLDER + "a.jsonl", b"{\n[]\n")
    report = export(store, 5)
    assert (report.games, report.set_aside, report.new_objects) == (0, 2, 1)
    assert export(store, 5).unchanged_objects == 1
    store.put(FOLDER + "b.jsonl", b"")
    append_logs(with_images(store), [game()])
    assert export(store, 5).games == 1


def test_a_record_is_taken_up_when_its_image_arrives(store: Store) -> None:
    with_images(store, IMAGES[:9])
    append_logs(store, [game("g1")])
    assert (export(store, 5).set_aside, set_aside(store)[0]["field"]) == (1, "context")
    assert "images/image-J.png" in set_aside(store)[0]["reason"]
    with_images(store)
    report = export(store, 5)
    assert (report.games, report.set_aside) == (1, 0)
    assert store.keys("set_aside/") == []


def test_a_log_that_was_changed_and_one_that_was_archived(store: Store) -> None:
    store.put(FOLDER + "a.jsonl", line(game("g1")))
    append_logs(with_images(store), [game("g2")])
    export(store, 5)
    store.put(FOLDER + "a.jsonl", line(game("g1")) + line(game("g3")))
    assert export(store, 5).games == 3
    for key in store.keys(FOLDER):
        store.delete(key)
    assert export(store, 5).games == 3
    append_logs(store, [game("g4")])
    assert export(store, 5).games == 4
    assert [each.interaction_id for each in exported(store)] == ["g1", "g2", "g3", "g4"]


@pytest.mark.parametrize("calls", range(1, 6))
def test_killed_anywhere_and_run_again(
    new_store: Callable[[], Store], monkeypatch: pytest.MonkeyPatch, calls: int
) -> None:
    """The kill comes at one of the five writes: what is set aside, two parts, two manifests."""
    store, undisturbed = with_images(new_store()), with_images(new_store())
    for each in (store, undisturbed):
        append_logs(each, [game("g1")])
        export(each, 5)
        each.put(FOLDER + "b.jsonl", line(game("g2")) + b"broken\n" + line(game("g1")))
    export(undisturbed, 5)
    writes = iter(range(calls))

    def dying(name: str) -> Callable[..., object]:
        original = getattr(type(store), name)

        def write(self: Store, key: str, *rest: object) -> object:
            of_manifest = key.endswith("_manifest.json")  # a directory's `put_if` goes through its `put_file`
            if of_manifest == (name == "put_if") and not key.startswith("leases/") and next(writes) == calls - 1:
                raise KeyboardInterrupt
            return original(self, key, *rest)

        return write

    with monkeypatch.context() as patch:
        for name in ("put_file", "put_if"):
            patch.setattr(type(store), name, dying(name))
        with pytest.raises(KeyboardInterrupt):
            export(store, 5)
    assert (export(store, 5).games, export(store, 5).set_aside) == (2, 2)
    assert tables(store) == tables(undisturbed)


def test_outcomes_that_were_lost_are_made_again(store: Store) -> None:
    append_logs(with_images(store), [game("g1")])
    export(store, 5)
    before = tables(store)
    for key in store.keys("outcomes/"):
        store.delete(key)
    export(store, 5)
    assert tables(store) == before


@pytest.mark.parametrize("table", ["turns", "outcomes"])
def test_a_part_that_the_store_lost_is_made_again(store: Store, table: str) -> None:
    append_logs(with_images(store), [game("g1")])
    export(store, 5)
    append_logs(store, [game("g2")])
    export(store, 5)
    before = tables(store)
    store.delete(store.keys(f"{table}/round=5/variant=b-fft/part-")[0])
    with pytest.raises(TableError, match=r"the file is gone.*run the stage again"):
        read_table(store, table)
    assert export(store, 5).games == 2
    assert {each.interaction_id for each in exported(store)} == {"g1", "g2"}
    assert read_table(store, "outcomes").num_rows == 2
    assert {key.rpartition("/")[0] for key in tables(store)} == {key.rpartition("/")[0] for key in before}


def test_a_part_that_is_made_again_needs_no_more_pictures_than_it_did(store: Store) -> None:
    append_logs(store, [game("g1")])
    export(store, 5, unseen=IMAGES)
    store.delete(store.keys("turns/round=5/variant=b-fft/part-")[0])
    for _ in range(2):
        assert (export(store, 5).games, export(store, 5).set_aside) == (1, 0)
        store.delete(store.keys("turns/round=5/variant=b-fft/part-")[0])


def test_a_part_whose_log_is_gone_as_well_is_not_given_up_in_silence(store: Store) -> None:
    first = append_logs(with_images(store), [game("g1")])
    export(store, 5)
    data, (part,) = store.read(first), store.keys("turns/round=5/variant=b-fft/part-")
    store.delete(first)
    store.delete(part)
    for _ in range(2):
        append_logs(store, [game("g2")])
        with pytest.raises(TableError, match=f"{part}: rows are gone, and so is the log.*{first}.*put it back"):
            export(store, 5)
    store.put(first, data)
    assert export(store, 5).games == 2


def test_disk_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = with_images(open_store(tmp_path))
    append_logs(store, [game("g1")])
    export(store, 5)
    append_logs(store, [game("g2")])
    before = contents(store)

    def no_room(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch, pytest.raises(StoreError, match="no room to write"):
        patch.setattr(os, "fsync", no_room)
        export(store, 5)
    assert contents(store) == before
    assert list(store.scratch.iterdir()) == []
    assert export(store, 5).games == 2


def test_an_object_fetched_ahead_is_closed_where_the_export_fails(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("g1", "g2", "g3"):
        append_logs(with_images(store), [game(name)])
    opened: list[BinaryIO] = []
    ahead, plain = Event(), type(store).open

    def recorded(self: Store, key: str) -> BinaryIO:
        if not key.startswith(FOLDER):
            return plain(self, key)
        opened.append(plain(self, key))
        if len(opened) == 2:
            ahead.set()
        return opened[-1]

    def fails(*_: object) -> None:
        ahead.wait(60)
        raise MemoryError

    monkeypatch.setattr(type(store), "open", recorded)
    monkeypatch.setattr(export_module, "accept", fails)
    with pytest.raises(MemoryError):
        export(store, 5)
    assert len(opened) == 2 and all(each.closed for each in opened)


# --- several at once ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("leased", [True, False], ids=["in turn", "past its lease"])
def test_two_exports_at_once(store: Store, monkeypatch: pytest.MonkeyPatch, leased: bool) -> None:
    """One is held between the parts that it stored and their commit, while another runs."""
    for name in ("g1", "g2"):
        append_logs(with_images(store), [game(name)])
        if name == "g1":
            export(store, 5)
    if not leased:  # as if it had slept for longer than a lease stands
        monkeypatch.setattr(export_module, "lease", lambda *_: nullcontext(False))
    held, go_on, plain = Event(), Event(), export_module.commit

    def holding(*given: Any, **options: Any) -> Manifest:
        if not held.is_set():
            held.set()
            assert go_on.wait(60)
        return plain(*given, **options)

    monkeypatch.setattr(export_module, "commit", holding)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(export, store, 5)
        assert held.wait(60)
        append_logs(store, [game("g3")])
        second = pool.submit(export, store, 5)
        wait([second], timeout=1 if leased else 60)
        assert second.done() != leased, "the lease makes the second wait"
        go_on.set()
        assert first.result(60).games == (2 if leased else 3) and second.result(60).games == 3
    assert {each.interaction_id for each in exported(store)} == {"g1", "g2", "g3"}
    assert read_table(store, "outcomes").num_rows == 3
    _assert_at_rest(store, 3, left_over=0 if leased else 1)


def _assert_at_rest(store: Store, games: int, left_over: int = 0) -> None:
    """The next export has nothing to do, and of parts that no manifest names so many of each table are left."""
    before = tables(store)
    report = export(store, 5)
    assert (report.games, report.new_objects) == (games, 0)
    assert tables(store) == before
    for table in ("turns", "outcomes"):
        manifest = read_manifest(store, table, 5, "b-fft")
        assert manifest is not None
        folder = f"{table}/round=5/variant=b-fft/"
        parts, named = set(store.keys(folder + "part-")), {folder + part.path for part in manifest.parts}
        assert named <= parts and len(parts - named) == left_over


_EXPORTS = r"""
import sys
from respect_core.log.export import export
from respect_core.store.open import open_store

print("ready", flush=True)
sys.stdin.readline()
store = open_store(sys.argv[1])
while export(store, 5).games < 12:
    pass
"""


@pytest.mark.heavy
def test_processes_that_export_at_once(store: Store) -> None:
    append_logs(with_images(store), [game("g0")])
    command, pipe = [sys.executable, "-c", _EXPORTS, store.uri], subprocess.PIPE
    processes = [subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) for _ in range(2)]
    assert [each.stdout and each.stdout.readline() for each in processes] == ["ready\n"] * 2
    for each in processes:
        assert each.stdin is not None
        each.stdin.write("go\n")
        each.stdin.flush()
    for number in range(1, 12):
        append_logs(store, [game(f"g{number}")])
    assert [each.wait(60) for each in processes] == [0, 0]
    assert [each.interaction_id for each in exported(store)] == sorted(f"g{number}" for number in range(12))
    assert read_table(store, "outcomes").num_rows == 12
    _assert_at_rest(store, 12)


def test_missing_bucket(s3_server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StoreError, match="bucket 'absent' does not exist"):
        export(open_store("s3://absent"), 5)


# --- properties -----------------------------------------------------------------------------------------------

_PROPERTY = settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@pytest.fixture
def new_directory(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Store]:
    return lambda: with_images(open_store(tmp_path_factory.mktemp("store")))


@_PROPERTY
@given(batch=st.lists(logs(), min_size=1, max_size=4, unique_by=lambda log: log.interaction_id))
def test_whatever_is_logged_comes_back(new_directory: Callable[[], Store], batch: list[InteractionLog]) -> None:
    store = new_directory()
    append_logs(store, batch)
    report = export(store, 5)
    assert report.set_aside == 0
    assert exported(store) == sorted(map(from_log, batch), key=lambda each: each.interaction_id)


@pytest.mark.heavy
@_PROPERTY
@given(
    batches=st.lists(st.lists(logs(st.sampled_from("abcdef")), min_size=1, max_size=3), min_size=1, max_size=4),
    order=st.randoms(use_true_random=False),
)
def test_no_order_of_objects_loses_or_repeats_a_game(
    new_directory: Callable[[], Store], batches: list[list[InteractionLog]], order: random.Random
) -> None:
    """Objects arrive one by one, or all at once: each id is exported once, with the record of one of its games."""
    given_ids = {log.interaction_id for batch in batches for log in batch}
    games = [from_log(log) for batch in batches for log in batch]
    one_by_one, at_once = new_directory(), new_directory()
    for batch in order.sample(batches, len(batches)):
        append_logs(one_by_one, batch)
        export(one_by_one, 5)
    for batch in batches:
        append_logs(at_once, batch)
    export(at_once, 5)
    for store in (one_by_one, at_once):
        found = exported(store)
        assert [each.interaction_id for each in found] == sorted(given_ids)
        assert all(each in games for each in found)
        assert read_table(store, "outcomes").num_rows == len(given_ids)


_STEPS = st.one_of(
    st.tuples(st.just("append"), st.sampled_from("abcdef")),
    st.tuples(st.just("export"), st.none()),
    st.tuples(st.just("lose"), st.integers(0, 9)),
)


@_PROPERTY
@given(steps=st.lists(_STEPS, min_size=3, max_size=10))
def test_whatever_is_lost_a_table_is_read_or_says_why_and_an_export_makes_it_again(
    new_directory: Callable[[], Store], steps: list[tuple[str, Any]]
) -> None:
    store, appended = new_directory(), set()
    for step, which in steps:
        if step == "append":
            append_logs(store, [game(which)])
            appended.add(which)
        elif step == "lose" and (
            parts := store.keys("turns/round=5/variant=b-fft/part-")
            + store.keys("outcomes/round=5/variant=b-fft/part-")
        ):
            store.delete(parts[which % len(parts)])
        elif step == "export":
            export(store, 5)
            assert {each.interaction_id for each in exported(store)} == appended
        with suppress(TableError):  # and no MissingKeyError
            read_table(store, "turns")
    export(store, 5)
    assert {each.interaction_id for each in exported(store)} == appended
    assert read_table(store, "outcomes").num_rows == len(appended)


# --- memory ---------------------------------------------------------------------------------------------------

# VmHWM is of this process alone; ru_maxrss would carry over the peak of the process that started it.
_MEASURE = r"""
import re, sys
from pathlib import Path
from respect_core.log.export import export
from respect_core.store.open import open_store

report = export(open_store(sys.argv[1]), 5)
print(report.games, re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])
"""


@pytest.mark.heavy
def test_memory_does_not_grow_with_the_log(tmp_path: Path) -> None:
    """Ten times the games, 20,000 and 30 MB of lines: less than 40 MiB more at the peak (a row group, and the ids)."""
    peaks = {}
    template = line(game("@@"))
    for count in (2_000, 20_000):
        store = with_images(open_store(tmp_path / str(count)))
        for number in range(0, count, 1000):
            ids = (f"game-{each}".encode() for each in range(number, number + 1000))
            store.put(f"{FOLDER}{number:06}.jsonl", b"".join(template.replace(b"@@", each) for each in ids))
        command = [sys.executable, "-c", _MEASURE, str(tmp_path / str(count))]
        games, peak = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        assert int(games) == count
        peaks[count] = int(peak) / 1024
    print(f"peak memory, MiB: {peaks}")
    assert peaks[20_000] - peaks[2_000] < 40, peaks
