"""kill -9 of real workers, in decode and in training: what comes after is as if nothing had happened.

One kill each in the usual suite; ten at random points in the slow one.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from forked import Forked
from samples import contents, game, with_images
from trainings import training

from respect_core.feedback import decoder as feedback
from respect_core.feedback.decoder import FeedbackDecoder, smollm2
from respect_core.feedback.shards import SHARDS
from respect_core.log.export import export
from respect_core.log.log import append_logs
from respect_core.log.records import LoggedTurn
from respect_core.model.base import adapter_hash
from respect_core.profiles import tiny
from respect_core.store.manifests import Partition
from tasks.compute import worker
from tasks.compute.specs import DecodeSpec, TrainSpec
from tasks.support.workspace import Workspace, workspace

HERE = Partition(5, "b-fft")
KILLS = 10


# --- what workers are given -------------------------------------------------------------------------------------


def _decoding(root: Path, games: int, turns_per_shard: int) -> DecodeSpec:
    """A store with turns, no two utterances alike, and the order to decode them."""
    place, draw = workspace(root), random.Random(0)
    words = ["no", "yes", "good", "the other one", "wrong", "great", "a tall one", "undo that", "with a hat", "a boat"]
    logs = []
    for number in range(games):
        said = [f"{' '.join(draw.sample(words, 3))} {number}" for _ in range(3)]
        actions = ["select C", "deselect C select D", "select A"]
        turns = [LoggedTurn(utterance=text, action=action) for text, action in zip(said, actions, strict=True)]
        logs.append(game(f"g{number:04}", turns=turns))
    append_logs(with_images(place.open()), logs)
    export(place.open(), HERE.round)
    return DecodeSpec(
        workspace=place,
        profile=tiny(),
        code_version="test",
        partitions=[HERE],
        identity={"decoder_model": "test"},
        turns_per_shard=turns_per_shard,
    )


# --- running and killing them -----------------------------------------------------------------------------------


_HOLDS = """
import sys, time
from pathlib import Path
from tasks.compute import worker

tell = worker.report

def report(done, total, note=""):
    tell(done, total, note)
    while done >= int(sys.argv[2]):
        time.sleep(1)

worker.report = report
worker.main(Path(sys.argv[1]))
"""


class Attempt:
    """A worker process, and what it has told of its progress.

    Args:
        holds: what it has done when it goes no further, and waits to be killed.
    """

    def __init__(self, spec: DecodeSpec | TrainSpec, folder: Path, holds: int | None = None) -> None:
        folder.mkdir(exist_ok=True)
        (folder / "spec.json").write_text(spec.model_dump_json())
        self.told: list[int] = []
        self._heard = b""
        module = ["-m", "tasks.compute.worker", str(folder / "spec.json")]
        command = module if holds is None else ["-c", _HOLDS, module[-1], str(holds)]
        with (folder / "worker.log").open("ab") as log:
            self.process = Forked([sys.executable, *command], stderr=log)

    def kill_when(self, ready: Callable[[], bool]) -> bool:
        """kill -9 as soon as `ready`; False where the worker was faster."""
        os.set_blocking(self.process.stdout.fileno(), False)
        while not ready() and self.process.poll() is None:
            self._listen()
            time.sleep(0.005)
        self.process.send_signal(signal.SIGKILL)
        code = self.process.wait(timeout=60)
        self._listen()
        assert code in (0, -signal.SIGKILL), f"the worker ended with {code}"
        return code != 0

    def finish(self) -> None:
        for line in self.process.stdout:
            self.told.append(json.loads(line)["done"])
        assert self.process.wait(timeout=600) == 0

    def _listen(self) -> None:
        """A line may come in pieces, and the last of a killed worker may never be whole."""
        with suppress(BlockingIOError):
            while piece := os.read(self.process.stdout.fileno(), 1 << 16):
                self._heard += piece
        *lines, self._heard = self._heard.split(b"\n")
        self.told += [json.loads(line)["done"] for line in lines]


def _here(spec: DecodeSpec | TrainSpec, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The worker in this process, where the libraries are imported already; returns its progress."""
    told: list[int] = []
    monkeypatch.setattr(worker, "report", lambda done, total, note="": told.append(done))
    folder.mkdir(exist_ok=True)
    (folder / "spec.json").write_text(spec.model_dump_json())
    worker.main(folder / "spec.json")
    return told


def _feedback(place: Workspace) -> dict[str, bytes]:
    store = place.open()
    assert not store.keys(SHARDS)
    return contents(store, "feedback/")


def _trained(folder: Path) -> Any:
    """All that a training leaves but its speed and its paths."""
    result = json.loads((folder / "result.json").read_text())
    assert not list(folder.glob("resume*"))
    adapters = [adapter_hash(folder / each.pop("adapter")) for each in result["checkpoints"]]
    return result["checkpoints"], adapters, (folder / "history.jsonl").read_text()


# --- one kill each ----------------------------------------------------------------------------------------------


@pytest.mark.timeout(600)
def test_a_killed_decode_goes_on_behind_its_last_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = FeedbackDecoder(smollm2())  # loaded once for both that run here
    monkeypatch.setattr(feedback, "FeedbackDecoder", lambda config: decoder)
    undisturbed = _decoding(tmp_path / "undisturbed", games=12, turns_per_shard=9)
    _here(undisturbed, tmp_path / "undisturbed" / "work", monkeypatch)

    spec = _decoding(tmp_path / "killed", games=12, turns_per_shard=9)
    store = spec.workspace.open()
    attempt = Attempt(spec, tmp_path / "killed" / "work", holds=19)  # in the third shard
    assert attempt.kill_when(lambda: max(attempt.told, default=0) >= 19)
    finished = len(store.keys(SHARDS))
    assert finished == 2 and not store.keys("feedback/")

    told = _here(spec, tmp_path / "killed" / "work", monkeypatch)
    assert told[:finished] == [9 * (number + 1) for number in range(finished)]  # at a stroke, without a prompt
    result = json.loads((tmp_path / "killed" / "work" / "result.json").read_text())
    assert (result["turns"], result["found"]) == (24, 6 * finished)
    assert _feedback(spec.workspace) == _feedback(undisturbed.workspace)


@pytest.mark.timeout(600)
def test_a_killed_training_goes_on_behind_its_last_point(
    people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = training(people, tmp_path / "undisturbed", steps=4, checkpoint_every=2)
    assert _here(undisturbed, undisturbed.directory, monkeypatch) == [1, 2, 3, 4]

    spec = training(people, tmp_path / "killed", steps=4, checkpoint_every=2)
    attempt = Attempt(spec, spec.directory, holds=3)
    assert attempt.kill_when(lambda: 3 in attempt.told)
    assert not (spec.directory / "result.json").exists()
    assert _here(spec, spec.directory, monkeypatch) == [3, 4]
    assert _trained(spec.directory) == _trained(undisturbed.directory)


# --- ten kills each ---------------------------------------------------------------------------------------------


def _kill_again_and_again(
    make: Callable[[Path], DecodeSpec | TrainSpec],
    root: Path,
    seconds: float,
    after: Callable[[Attempt, Path], None],
    finished: Callable[[DecodeSpec | TrainSpec, Path], None],
) -> None:
    """Ten kills at random moments of a worker's life; where it ends before its killer comes, the work begins anew.

    Args:
        seconds: an undisturbed worker's life.
        after: called behind each attempt with the folder of the work.
        finished: called with what is finished.
    """
    draw, kills, number = random.Random(20261124), 0, 0
    while kills < KILLS:
        number += 1
        folder = root / f"run-{number}"
        spec, killed = make(folder), True
        while killed:
            moment = time.monotonic() + draw.uniform(0.1, 1.0) * seconds if kills < KILLS else float("inf")
            attempt = Attempt(spec, folder / "work")
            killed = attempt.kill_when(lambda moment=moment: time.monotonic() > moment)  # type: ignore[misc]
            kills += killed
            killed = killed and not (folder / "work" / "result.json").exists()
            after(attempt, folder)
        finished(spec, folder)


def _life(spec: DecodeSpec | TrainSpec, folder: Path) -> float:
    started = time.monotonic()
    Attempt(spec, folder).finish()
    return time.monotonic() - started


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_ten_kills_in_decode(tmp_path: Path) -> None:
    games = 100
    undisturbed = _decoding(tmp_path / "undisturbed", games, turns_per_shard=60)
    seconds = _life(undisturbed, tmp_path / "undisturbed" / "work")
    expected = _feedback(undisturbed.workspace)
    stored: dict[Path, int] = {}

    def unchanged(attempt: Attempt, folder: Path) -> None:
        """A shard that is there stays as it is: nobody decodes it again."""
        before = {path: time for path, time in stored.items() if path.is_relative_to(folder)}
        files = {path: path.stat().st_mtime_ns for path in (folder / "store" / SHARDS).rglob("*.parquet")}
        assert not files or before.items() <= files.items()
        stored.update(files)

    def same(spec: DecodeSpec | TrainSpec, folder: Path) -> None:
        result = json.loads((folder / "work" / "result.json").read_text())
        kept = [path for path in stored if path.is_relative_to(folder)]
        if result["turns"]:  # else the last but one had finished the table, and was killed before it could say so
            assert (result["turns"], result["found"]) == (2 * games, 40 * len(kept))
        assert _feedback(spec.workspace) == expected

    _kill_again_and_again(lambda root: _decoding(root, games, 60), tmp_path, seconds, unchanged, same)
    assert stored, "every kill came before the first shard"


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_ten_kills_in_training(people: Path, tmp_path: Path) -> None:
    steps, every = 24, 10
    undisturbed = training(people, tmp_path / "undisturbed", steps, every)
    seconds = _life(undisturbed, undisturbed.directory)
    expected = _trained(undisturbed.directory)
    reached: dict[Path, int] = {}

    def few_repeated(attempt: Attempt, folder: Path) -> None:
        if attempt.told:
            first, last = attempt.told[0], attempt.told[-1]
            assert attempt.told == list(range(first, last + 1))
            # A worker may be killed with a step or two that nobody heard of.
            assert reached.get(folder, 0) - 10 < first <= reached.get(folder, 0) + 3
            reached[folder] = last

    def same(spec: DecodeSpec | TrainSpec, folder: Path) -> None:
        assert _trained(folder / "work") == expected

    _kill_again_and_again(lambda root: training(people, root, steps, every), tmp_path, seconds, few_repeated, same)
