"""A game that a worker dies of is found by halves and set aside, and the work goes through without it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trainings
from hypothesis import given
from hypothesis import strategies as st

from respect_core.interaction import Interaction
from respect_core.learning import batch_loss
from respect_core.log import set_aside
from respect_core.model import packing
from respect_core.store import tables
from tasks.compute import culprits, process, worker
from tasks.compute.specs import TrainSpec

GAMES = [f"g{number:02}" for number in range(23)]


class Killed(BaseException):
    """What the kernel does to a process that wants too much."""


@pytest.fixture
def spec(people: Path, tmp_path: Path) -> TrainSpec:
    return trainings.training(people, tmp_path / "run", steps=2, checkpoint_every=2)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The specifications of the workers, which run in this process and are killed in it."""
    specs: list[dict[str, Any]] = []

    def start(command: list[str], **_: Any) -> Any:
        specs.append(json.loads(Path(command[-1]).read_text()))
        try:
            code = worker.run(Path(command[-1]))
        except Killed:
            code = -9
        return SimpleNamespace(stdout=(), stdin=None, wait=lambda: code, poll=lambda: code, kill=lambda: None)

    monkeypatch.setattr(process, "start", start)
    return specs


def _deadly(monkeypatch: pytest.MonkeyPatch, game: str, error: BaseException) -> None:
    encode = batch_loss.encode

    def deadly(interaction: Interaction, *arguments: Any, **options: Any) -> packing.Encoded:
        if interaction.interaction_id == game:
            raise error
        return encode(interaction, *arguments, **options)

    monkeypatch.setattr(batch_loss, "encode", deadly)


def _trained(spec: TrainSpec) -> list[str]:
    table = tables.read_table(spec.workspace.open(), "training_sets", [spec.round], [spec.variant])
    return sorted(set(table["interaction_id"].to_pylist()))


def _run(spec: TrainSpec) -> dict[str, Any]:
    path = culprits.run(process.run, spec, spec.directory, lambda done, total, note: None, spread=True)
    result: dict[str, Any] = json.loads(path.read_text())
    return result


def test_a_game_that_kills_its_worker_twice_is_set_aside(
    spec: TrainSpec, started: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    culprit = _trained(spec)[1]
    _deadly(monkeypatch, culprit, Killed())
    with pytest.raises(process.WorkerCutOffError, match="exit code -9"):
        _run(spec)
    assert len(started) == 1 and not set_aside.games(spec.workspace.open()), "once may be chance"

    assert _run(spec)["checkpoints"]
    (problem,) = set_aside.games(spec.workspace.open()).values()
    assert problem.record == culprit and "exit code -9" in problem.reason and problem.remedy
    assert started[-1]["without"] == [culprit]
    assert culprits.known(spec.workspace.open(), spec.round, spec.variant) == [culprit]


def test_a_game_that_a_worker_names_is_set_aside_at_once(
    spec: TrainSpec, started: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    culprit = _trained(spec)[0]
    _deadly(monkeypatch, culprit, packing.GameError(culprit, 3, "the game has 9000 tokens"))
    assert _run(spec)["checkpoints"]
    (problem,) = set_aside.games(spec.workspace.open()).values()
    assert (problem.record, problem.field, problem.reason) == (culprit, "turns[3]", "the game has 9000 tokens")
    assert len(started) == 2


def test_memory_that_is_refused_for_one_game_is_no_reason_to_wait(
    spec: TrainSpec, started: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    culprit = _trained(spec)[-1]
    _deadly(monkeypatch, culprit, RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 45"))
    assert _run(spec)["checkpoints"]
    assert set(set_aside.games(spec.workspace.open())) == {culprit}


def test_what_no_game_is_to_blame_for_fails_as_ever(
    spec: TrainSpec, started: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any, **__: Any) -> None:
        raise Killed

    monkeypatch.setattr(batch_loss, "encode", killed)
    for _ in range(3):
        with pytest.raises(process.WorkerCutOffError):
            _run(spec)
    assert not set_aside.games(spec.workspace.open())
    kept = [each for each in started if each["only"] is None]
    assert len(kept) == 3


def test_a_game_to_validate_on_is_nobodys_to_leave_out(
    spec: TrainSpec, started: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    _deadly(monkeypatch, _trained(spec)[0], packing.GameError("a game of the validation set", 0, "too long"))
    with pytest.raises(process.WorkerRefusedError, match="exit code 65"):
        _run(spec)
    assert not set_aside.games(spec.workspace.open())


# --- the search -------------------------------------------------------------------------------------------------


@given(culprit=st.sampled_from(GAMES), suspects=st.sets(st.sampled_from(GAMES)))
def test_one_culprit_is_found_among_its_suspects(culprit: str, suspects: set[str]) -> None:
    tried = []

    def fails(games: Sequence[str]) -> bool:
        tried.append(games)
        return culprit in games

    found = culprits.find(sorted(suspects), GAMES, fails)
    assert found == (culprit if culprit in suspects else None)
    assert len(tried) <= 2 * len(GAMES).bit_length() + 3


@given(fatal=st.sets(st.sampled_from(GAMES), min_size=2, max_size=2))
def test_two_games_that_fail_together_alone_are_not_blamed(fatal: set[str]) -> None:
    assert culprits.find(GAMES, GAMES, lambda games: fatal <= set(games)) is None


def test_nobody_is_blamed_for_what_always_fails() -> None:
    assert culprits.find(GAMES, GAMES, lambda _: True) is None
    assert culprits.find(GAMES[:1], GAMES[:1], lambda _: True) is None
