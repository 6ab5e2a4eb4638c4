"""Who is forgotten leaves no word in a store, on a directory and on S3, whenever a process is killed in between."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from samples import game, with_images
from traces import in_store

from respect_core.log import forgetting, forgotten_places, served_chats, tombstones
from respect_core.log.export import export, export_everything
from respect_core.log.forgotten_places import store_places
from respect_core.log.log import LOGS, Problem, append_logs
from respect_core.log.records import InteractionLog, turn_rows
from respect_core.log.served_chats import ServedChat, interaction_id
from respect_core.log.set_aside import put as set_aside
from respect_core.log.tombstones import ForgettingError, Why
from respect_core.measuring import annotation_tasks, human_eval
from respect_core.measuring.human_eval import Answer
from respect_core.schemas import FEEDBACK_SCHEMA, TRAINING_SET_SCHEMA
from respect_core.store.base import Store
from respect_core.store.manifests import Partition, partitions, table_input
from respect_core.store.open import open_store
from respect_core.store.tables import read_table, write_partition
from respect_core.training_data import curated

ANN, BOB = "0a11ce0a11ce0a11", "b0bb0bb0bb0bb0bb"
SECRET = "zébra"
SHARED, ALONE = Partition(5, "b-fft"), Partition(6, "b-fft")


def _said(name: str, user: str, round: int = 5, word: str = "boat", **changes: Any) -> InteractionLog:
    log = game(name, round=round, user=user, **changes)
    turns = [turn.model_copy(update={"utterance": f"{turn.utterance} {word}"}) for turn in log.turns]
    return log.model_copy(update={"turns": turns})


def _chat(number: int, conversation: str, user: str, word: str, time: str = "2026-01-02T03:04:05+00:00") -> ServedChat:
    return ServedChat(
        id=f"answer-{number}",
        time=time,
        conversation_id=conversation,
        user=user,
        scenario="chat",
        base="none",
        variant="b-fft",
        version="respect.b-fft/3",
        adapter_hash="a" * 64,
        round=5,
        offered=(),
        background=False,
        cut=False,
        idle=60.0,
        first_token=0.1,
        seconds=1.0,
        request={"messages": [{"role": "user", "content": word}]},
        response={"choices": [{"message": {"role": "assistant", "content": "yes"}}]},
    )


def _labels(logs: list[InteractionLog]) -> pa.Table:
    rows = [
        {name: row[name] for name in ("interaction_id", "round", "variant", "turn")}
        | {"decoder": "binary", "label": 1, "score": 3.0, "low_margin": False, "decoder_model": "none"}
        | {"decoder_revision": "0", "prompt_hash": "p", "thresholds": "{}"}
        for log in logs
        for row in turn_rows(log)
    ]
    return pa.Table.from_pylist(rows, FEEDBACK_SCHEMA)


def _training(logs: list[InteractionLog]) -> pa.Table:
    rows = [
        {name: row.get(name) for name in TRAINING_SET_SCHEMA.names}
        | {"interaction_id": f"{row['interaction_id']}{copy}", "label": 1, "source": "round"}
        for log in logs
        for row in turn_rows(log)
        for copy in ("", "~undo0")
    ]
    return pa.Table.from_pylist(rows, TRAINING_SET_SCHEMA)


def _deployment(store: Store, *, with_ann: bool) -> None:
    """Logs, tables and all that is made from them: of Bob, and of Ann."""
    with_images(store)
    bobs = [_said("b1", BOB), _said("b2", BOB)]
    anns = [_said("a1", ANN, word=SECRET), _said("a2", ANN, word=SECRET)] if with_ann else []
    append_logs(store, [*bobs[:1], *anns[:1]])
    append_logs(store, anns[1:], "game-a2") if anns else None
    append_logs(store, bobs[1:], "game-b2")
    if anns:
        append_logs(store, [_said("a3", ANN, round=6, word=SECRET)])
    broken = [("b9", BOB), *([("a9", ANN)] if with_ann else [])]
    said = {ANN: SECRET, BOB: "boat"}
    lines = [json.dumps({"interaction_id": name, "user": user, "turns": said[user]}).encode() for name, user in broken]
    store.put(f"{SHARED.folder(LOGS)}broken.jsonl", b"\n".join(lines) + b"\n")
    export_everything(store)
    logs = [*bobs, *anns]
    source = [table_input(store, "turns", *SHARED)]
    write_partition(store, "feedback", *SHARED, _labels(logs), inputs=source, metadata={"decoder": {"model": "none"}})
    write_partition(open_store(f"{store.uri}/redecoded/other"), "feedback", *SHARED, _labels(logs))
    write_partition(store, "training_sets", *SHARED, _training(logs), inputs=source)
    annotation_tasks.put_tasks(store, annotation_tasks.sample(store, *SHARED))
    human_eval.append_answers(
        store,
        [
            Answer(interaction_id=log.interaction_id, round=5, variant="b-fft", turn=0, annotator="eve").model_copy(
                update={"intended": "select A", "satisfaction": "no"}
            )
            for log in logs
        ],
    )
    for name in (curated.D0, curated.VALIDATION):
        curated.add(
            store, name, [_said(f"{name}-b", BOB), *([_said(f"{name}-a", ANN, word=SECRET)] if with_ann else [])]
        )
    chats = [_chat(1, "bobs", BOB, "hi"), *([_chat(2, "anns", ANN, SECRET)] if with_ann else [])]
    store.put("served_chats/2026-01-02/one.jsonl", b"".join(each.model_dump_json().encode() + b"\n" for each in chats))
    if with_ann:
        store.put("served_chats/2026-01-03/two.jsonl", _chat(3, "anns", ANN, SECRET).model_dump_json().encode() + b"\n")
        store.put("gateway/conversations/an/anns.json", b"{}")
        store.put(f"{SHARED.folder('games')}0a.json", _record("0a", BOB, ANN))
        set_aside(
            store, SHARED, Problem("turns/", "a1", "turns[0].utterance", f"too long, not {SECRET!r}", "shorten it")
        )
        store.put(f"{SHARED.folder('propensities')}one.json", json.dumps({"a1": [0.5], "b1": [0.5]}).encode())
    store.put(f"{SHARED.folder('games')}0b.json", _record("0b", BOB, BOB))


def _record(name: str, speaker: str, listener: str) -> bytes:
    users = {"speaker": speaker, "listener": listener}
    told = {"game": name, "round": 5, "variant": "b-fft", "users": users, "started_at": "2026-01-02T03:04:05"}
    return json.dumps({**told, "turns": [{"utterance": SECRET if ANN in users.values() else "boat"}]}).encode()


def _rows(store: Store) -> dict[str, list[dict[str, Any]]]:
    tables = ("turns", "outcomes", "feedback", "training_sets", "annotations")
    found = {name: read_table(store, name).to_pylist() for name in tables}
    return {name: sorted(rows, key=lambda row: json.dumps(row, default=str)) for name, rows in found.items()}


def _traces(store: Store) -> list[str]:
    """Where Ann's words are, or her pseudonym, except in what says that she is forgotten."""
    return [*in_store(store, SECRET), *(key for key in in_store(store, ANN) if not key.startswith("forgotten/"))]


@dataclass
class Without:
    """What a store has that Ann was never in: rows and partitions by table."""

    rows: dict[str, list[dict[str, Any]]]
    partitions: dict[str, list[Partition]]

    @classmethod
    def of(cls, store: Store) -> Without:
        rows = _rows(store)
        return cls(rows, {name: partitions(store, name) for name in rows})


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """To be copied."""
    folder = tmp_path_factory.mktemp("deployed")
    _deployment(open_store(folder / "store"), with_ann=True)
    return folder / "store"


@pytest.fixture(scope="module")
def never(tmp_path_factory: pytest.TempPathFactory) -> Without:
    store = open_store(tmp_path_factory.mktemp("never"))
    _deployment(store, with_ann=False)
    return Without.of(store)


def _contents(store: Store) -> dict[str, bytes]:
    return {key: store.read(key) for key in store.entries() if not key.startswith("leases/")}


def _require_gone(store: Store, never: Without) -> None:
    assert _traces(store) == []
    assert Without.of(store) == never, "and no partition that is empty"
    before = _contents(store)
    export_everything(store)
    assert _contents(store) == before


def test_a_store_without_a_user_is_as_if_they_had_never_been_there(store: Store, never: Without) -> None:
    _deployment(store, with_ann=True)
    assert len(_traces(store)) > 15
    receipt = forgetting.forget(store, forgetting.user(ANN))
    _require_gone(store, never)
    told = store.read(receipt.key).decode()
    assert SECRET not in told and json.loads(told)["places"][LOGS]["records"] == 4
    (feedback,) = [each for each in partitions(store, "feedback") if each == SHARED]
    assert {"0b.json"} == {key.rpartition("/")[2] for key in store.keys("games/")}, "of two people: with either"
    (part,) = forgotten_places.read_manifest(store, "feedback", *feedback).parts  # type: ignore[union-attr]
    assert part.inputs == (table_input(store, "turns", *SHARED),), "what is left stays decoded"
    assert curated.names(store) == [curated.D0, curated.VALIDATION]


class _KilledError(BaseException):
    pass


def _killed_at(store: Store, place: str, monkeypatch: pytest.MonkeyPatch, *, after: bool) -> None:
    """Begin to forget Ann, and die at the first object of a place."""

    def places(store: Store) -> list[Any]:
        found = store_places(store)
        (chosen,) = [each for each in found if each.name == place][:1]
        erase = chosen.erase

        def killed(*given: Any) -> None:
            if after:
                erase(*given)
            raise _KilledError

        chosen.erase = killed  # type: ignore[method-assign]  # of this one
        return found

    with monkeypatch.context() as patch, pytest.raises(_KilledError):
        patch.setattr(forgetting, "store_places", places)
        forgetting.forget(store, forgetting.user(ANN))


PLACES = [
    *("interactions", "served_chats", "game_sets", "annotation_tasks", "answers", "games", "gateway/conversations"),
    *("set_aside", "turns and outcomes", "empty logs", "feedback", "training_sets", "annotations", "propensities"),
]


@pytest.mark.parametrize("place", PLACES)
def test_whoever_is_killed_is_completed_by_who_comes_next(
    tmp_path: Path, place: str, deployed: Path, never: Without, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(deployed, tmp_path / "store")
    store = open_store(tmp_path / "store")
    _killed_at(store, place, monkeypatch, after=place != PLACES[0])
    assert not tombstones.tombstones(store)[0].erased
    export_everything(store)  # an export in between neither fails nor brings anything back
    forgetting.finish(store)
    assert tombstones.tombstones(store)[0].erased
    _require_gone(store, never)
    assert forgetting.forget(store, forgetting.user(ANN)).places[LOGS].records == 0


def test_killed_between_the_two_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With an archived log, whose rows only the tables have."""
    store = with_images(open_store(tmp_path / "store"))
    key = append_logs(store, [_said("a1", ANN, word=SECRET), _said("b1", BOB)])
    export(store, 5)
    store.delete(key)
    real = forgotten_places._filter

    def killed(store: Store, table: str, *given: Any) -> str | None:
        if table == "turns":
            raise _KilledError
        return real(store, table, *given)

    with monkeypatch.context() as patch, pytest.raises(_KilledError):
        patch.setattr(forgotten_places, "_filter", killed)
        forgetting.forget(store, forgetting.user(ANN))
    export(store, 5)
    assert [row["interaction_id"] for row in read_table(store, "outcomes").to_pylist()] == ["b1"]
    forgetting.finish(store)
    assert {row["interaction_id"] for row in read_table(store, "turns").to_pylist()} == {"b1"} and not _traces(store)
    export(store, 5)


def test_what_a_user_begins_later_is_new(store: Store) -> None:
    with_images(store)
    append_logs(store, [_said("old", ANN, word=SECRET)], "batch")
    forgetting.forget(store, forgetting.user(ANN))
    later = (datetime.now(UTC) + timedelta(minutes=1)).isoformat()
    append_logs(store, [_said("late", ANN, word=SECRET), _said("new", ANN, started_at=later)], "next")
    append_logs(store, [_said("old", ANN, word=SECRET)], "batch")  # as an import or a server might, once more
    assert export(store, 5).games == 1 and not in_store(store, SECRET)
    assert {row["interaction_id"] for row in read_table(store, "turns").to_pylist()} == {"new"}


def test_a_restored_log_does_not_bring_rows_back(tmp_path: Path) -> None:
    store = with_images(open_store(tmp_path / "store"))
    key = append_logs(store, [_said("a1", ANN, word=SECRET), _said("b1", BOB)])
    archived = store.read(key)
    forgetting.forget(store, forgetting.user(ANN))
    store.put(key, archived)
    export(store, 5)
    assert {row["interaction_id"] for row in read_table(store, "turns").to_pylist()} == {"b1"}


def test_one_interaction_or_conversation(store: Store) -> None:
    _deployment(store, with_ann=True)
    forgetting.forget(store, forgetting.interaction(store, "a1"))
    ids = {row["interaction_id"] for row in read_table(store, "turns").to_pylist()}
    assert ids == {"a2", "a3", "b1", "b2"}
    served = interaction_id("anns/answer-2")
    receipt = forgetting.forget(store, forgetting.interaction(store, served))
    assert receipt.tombstone.conversations == ("anns",), "all of the conversation: each request repeats it"
    assert [chat.conversation_id for chat in served_chats.read(store)] == ["bobs"]
    assert not forgetting.forget(store, forgetting.interaction(store, "a1")).places[LOGS].records, "again"
    with pytest.raises(ForgettingError, match="no interaction or conversation"):
        forgetting.interaction(store, "unknown")


def test_what_is_old_goes_and_taints_nothing(store: Store) -> None:
    _deployment(store, with_ann=True)
    now = datetime.now(UTC).isoformat()
    append_logs(store, [_said("young", BOB, started_at=now)])
    append_logs(store, [_said("timeless", BOB, started_at="1970-01-01T00:00:00+00:00")])
    export(store, 5)
    continued = _chat(9, "bobs", BOB, "still here", time=now)
    store.put("served_chats/2026-11-30/new.jsonl", continued.model_dump_json().encode() + b"\n")
    forgetting.forget(store, forgetting.older_than("2d"))
    assert {row["interaction_id"] for row in read_table(store, "turns").to_pylist()} == {"young", "timeless"}
    assert {chat.conversation_id for chat in served_chats.read(store)} == {"bobs"}, "it goes on"
    assert curated.names(store) == [curated.D0, curated.VALIDATION], "what was curated is not only old"
    (tombstone,) = tombstones.tombstones(store)
    assert tombstone.why is Why.AGE and tombstone.erased and not tombstone.interactions
    for wrong in ("90", "0d", "-1d", "soon"):
        with pytest.raises(ForgettingError, match="is no age"):
            forgetting.older_than(wrong)


def test_a_pseudonym_cannot_lead_elsewhere() -> None:
    for wrong in ("../../turns", "a/b", "", "ann@example.org"):
        with pytest.raises(ForgettingError, match="not a pseudonym") as refused:
            forgetting.user(wrong)
        assert not wrong or wrong not in str(refused.value)


def test_two_at_once_and_an_export_meanwhile(tmp_path: Path, deployed: Path, never: Without) -> None:
    shutil.copytree(deployed, tmp_path / "store")
    store = open_store(tmp_path / "store")
    started = threading.Barrier(3)
    failed: list[BaseException] = []

    def at_once(work: Callable[[], Any]) -> threading.Thread:
        def run() -> None:
            try:
                started.wait()
                work()
            except BaseException as error:
                failed.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    threads = [at_once(lambda: forgetting.forget(store, forgetting.user(ANN))) for _ in range(2)]
    threads.append(at_once(lambda: [export_everything(store) for _ in range(5)]))
    for each in threads:
        each.join()
    assert not failed
    _require_gone(store, never)


def test_a_reader_in_the_middle_finds_whole_tables(
    tmp_path: Path, deployed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After each step: what is there can be read, and has all of what stays."""
    shutil.copytree(deployed, tmp_path / "store")
    store = open_store(tmp_path / "store")
    kept = {
        (row["interaction_id"], row["turn"]) for row in read_table(store, "turns").to_pylist() if row["user"] == BOB
    }

    def look() -> None:
        for name, rows in _rows(store).items():
            ids = {(row["interaction_id"], row["turn"]) for row in rows if "turn" in row}
            assert name in ("outcomes", "annotations") or kept <= ids
        assert {log.interaction_id for log in curated.read(store, curated.D0)} >= {"d0-b"}

    def places(store: Store) -> list[Any]:
        found = store_places(store)
        for place in found:
            place.erase = _then(place.erase, look)  # type: ignore[method-assign]  # of this one
        return found

    monkeypatch.setattr(forgetting, "store_places", places)
    forgetting.forget(store, forgetting.user(ANN))
    assert not _traces(store)


def _then(work: Callable[..., Any], look: Callable[[], None]) -> Callable[..., Any]:
    def done(*given: Any) -> Any:
        result = work(*given)
        look()
        return result

    return done


def test_work_is_done_again_if_somebody_is_forgotten_meanwhile(tmp_path: Path) -> None:
    store = with_images(open_store(tmp_path / "store"))
    append_logs(store, [_said("a1", ANN, word=SECRET), _said("b1", BOB)])
    export(store, 5)
    seen: list[set[str]] = []

    def work() -> None:
        seen.append({row["user"] for row in read_table(store, "turns").to_pylist()})
        if len(seen) == 1:
            tombstones.put(store, forgetting.user(ANN))  # and its process dies

    forgetting.settled(store, work)
    assert seen == [{ANN, BOB}, {BOB}]


def test_whoever_appends_while_a_user_is_forgotten_leaves_them_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tombstone comes after the writer has asked, and before it has written."""
    store = with_images(open_store(tmp_path / "store"))
    put_file = type(store).put_file

    def late(self: Store, *given: Any) -> None:
        patch.setattr(type(store), "put_file", put_file)
        tombstones.put(self, forgetting.user(ANN))
        put_file(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(type(store), "put_file", late)
        append_logs(store, [_said("a1", ANN, word=SECRET), _said("b1", BOB)])
    assert not in_store(store, SECRET)
