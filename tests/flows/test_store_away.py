"""Tasks outlast a store that is away for a while, and give up in the end on one that has no room."""

from __future__ import annotations

import resource
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import seaweedfs
from prefect import flow
from samples import contents, game, with_images
from seaweedfs import S3Server

from flows.dispatch import pools
from flows.dispatch.pools import leave, on_pool
from respect_core.feedback.shards import SHARDS
from respect_core.log import forgetting
from respect_core.log.log import append_logs
from respect_core.log.records import LoggedTurn
from respect_core.profiles import tiny
from respect_core.store.base import Store, StoreError
from respect_core.store.tables import read_table
from tasks.round.decode import decode_feedback
from tasks.round.export import export_interactions
from tasks.support import retries
from tasks.support.references import PropensityRef
from tasks.support.workspace import Workspace, workspace

GAMES = 200
EAGER: dict[str, Any] = {"retries": 100}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A server of its own, since it is killed; each test has it running again in the end."""
    with seaweedfs.s3_server(tmp_path_factory.mktemp("s3")) as started:
        yield started


@pytest.fixture
def place(server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """Its store in S3, with games. Requests are tried once, so that what is tested are the tasks' own tries."""
    variables = server.environment | {"AWS_MAX_ATTEMPTS": "1", "RESPECT_STORE": f"s3://{server.bucket}/{tmp_path.name}"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    made = workspace(tmp_path)
    append_logs(with_images(made.open()), [_game(number) for number in range(GAMES)])
    return made


def _game(number: int) -> Any:
    said = [f"the boat number {number}", f"no, the other one, not {number}", f"good, now the {number} cups"]
    actions = ["select C", "deselect C select D", "select A"]
    turns = [LoggedTurn(utterance=text, action=action) for text, action in zip(said, actions, strict=True)]
    return game(f"g{number}", turns=turns)


@contextmanager
def _back_soon(server: S3Server, place: Workspace) -> Iterator[None]:
    """Away now, and back in a few seconds."""
    server.kill()
    with pytest.raises(StoreError, match="cannot be reached"):
        place.open().keys()
    back = threading.Timer(1, server.start)
    back.start()
    try:
        yield
    finally:
        back.join()


@flow
def exporting(place: Workspace) -> Any:
    return export_interactions.with_options(**EAGER)(place, 5)


@flow
def decoding(place: Workspace) -> Any:
    return decode_feedback(place, tiny(), 5, turns_per_shard=60)


@pytest.mark.timeout(600)
def test_export_waits_for_a_store_that_is_away(
    prefect_server: None, server: S3Server, place: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "DELAYS", [0.5])
    with _back_soon(server, place):
        assert exporting(place).games == GAMES
    assert read_table(place.open(), "turns").num_rows == 3 * GAMES


@flow
def leaving(place: Workspace, key: str, result: PropensityRef) -> None:
    leave.with_options(**EAGER)(place, key, result)


@pytest.mark.timeout(600)
def test_a_result_is_left_and_found_over_a_store_that_is_away(
    prefect_server: None, server: S3Server, place: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pools, "_POLL_SECONDS", 0.2)
    monkeypatch.setattr(retries, "DELAYS", [0.5])
    result = PropensityRef(round=0, variant="seed", source="surrogate", key="propensities/a.json")
    with _back_soon(server, place):
        leaving(place, "results/decode/a.json", result)
    with _back_soon(server, place):
        assert on_pool(place, "decode/decode", "results/decode/a.json", PropensityRef, {}, name="never run") == result


@flow
def patient(place: Workspace) -> Any:
    return export_interactions(place, 5)


@pytest.fixture
def tries(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows with every attempt at an export, which follow each other at once."""
    monkeypatch.setattr(retries, "DELAYS", [0.0])
    made: list[int] = []
    first = forgetting.finish

    def counting(store: Store) -> None:
        made.append(len(made))
        first(store)

    monkeypatch.setattr(forgetting, "finish", counting)
    return made


@pytest.mark.timeout(600)
def test_a_store_that_stays_away_fails_in_the_end_and_says_so(
    prefect_server: None, server: S3Server, place: Workspace, tries: list[int]
) -> None:
    before = contents(place.open())
    server.kill()
    with pytest.raises(StoreError, match="cannot be reached"):
        patient(place)
    assert len(tries) == 1 + retries.PATIENT["retries"]
    server.start()
    assert contents(place.open()) == before
    assert patient(place).games == GAMES  # as if nothing had happened


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_decode_outlasts_a_minute_without_its_store(prefect_server: None, server: S3Server, place: Workspace) -> None:
    exporting(place)
    kept: list[str] = []

    def interrupt() -> None:
        store = place.open()
        while len(store.keys(SHARDS)) < 2:
            time.sleep(0.05)
        kept.extend(store.keys(SHARDS))
        server.kill()
        time.sleep(60)
        server.start()

    away = threading.Thread(target=interrupt)
    away.start()
    try:
        found = decoding(place)
    finally:
        away.join()
    assert kept
    figures = found.decoders["binary"]
    assert figures.positive + figures.negative == 2 * GAMES
    assert read_table(place.open(), "feedback").num_rows == 4 * GAMES
    assert not place.open().keys(SHARDS)


@contextmanager
def _no_file_larger_than(size: int) -> Iterator[None]:
    """As on a disk that is full: the system itself refuses to write on."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.timeout(600)
def test_a_full_disk_fails_in_the_end_and_says_so(
    prefect_server: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tries: list[int]
) -> None:
    monkeypatch.delenv("RESPECT_STORE", raising=False)
    place = workspace(tmp_path)
    append_logs(with_images(place.open()), [_game(number) for number in range(GAMES)])
    before = contents(place.open())
    with (
        _no_file_larger_than(2_000),
        pytest.raises(StoreError, match=r"no room to write.*free space.*nothing stored earlier was touched"),
    ):
        patient(place)
    assert len(tries) == 1 + retries.PATIENT["retries"]
    after = {key: data for key, data in contents(place.open()).items() if not key.startswith("leases/")}
    assert after == before and not list(place.open().scratch.iterdir())
    assert patient(place).games == GAMES
    assert read_table(place.open(), "turns").num_rows == 3 * GAMES
