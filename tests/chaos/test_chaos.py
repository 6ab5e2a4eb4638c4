"""Rounds, promotions, games and conversations on a local stack that suffers accidents, and an audit in the end.

CHAOS_MINUTES (60) says for how long, CHAOS_SEED which accidents; both are printed.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from endpoints import endpoint
from running import ROUND, RunningStack, free_ports
from talking_users import judged
from text_bases import one_call

from chaos import audit
from chaos.faults import Faults, Game
from chaos.traffic import GATE, LEARNING, LINK_KEY, Operators, Players, Talkers
from deployments.local.settings import BUCKET
from respect_core.store.base import StoreError
from respect_core.store.open import open_store

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(0)]

MINUTES = float(os.environ.get("CHAOS_MINUTES") or 60)
SEED = int(os.environ.get("CHAOS_SEED") or random.SystemRandom().randrange(1_000_000))
QUIET = 900.0
"""Seconds after the last accident until everything is as it should be: lost runs are ended after 300 s of silence."""
_BEGAN = time.monotonic()


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {time.monotonic() - _BEGAN:6.0f} s  {text}", flush=True)


@contextmanager
def _stack(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunningStack]:
    """Whose SmolLM2 is a small model, and which is stopped in the end."""
    one_call(folder / "cache")
    monkeypatch.setenv("RESPECT_LINK_KEY", LINK_KEY)
    monkeypatch.setenv("RESPECT_CACHE", str(folder / "cache"))
    stack = RunningStack(folder / "stack")
    stack.up()
    for name, value in (stack.stack.environment() | stack.stack.login()).items():
        monkeypatch.setenv(name, value)
    try:
        yield stack
    finally:
        stack.command("down")


def test_nothing_that_was_acknowledged_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _say(f"CHAOS_SEED={SEED} CHAOS_MINUTES={MINUTES:g} {tmp_path}")
    figures: dict[str, int] = {}
    with _stack(tmp_path, monkeypatch) as stack, endpoint(judged) as judge:
        first = stack.start(
            "deployed-simulate/simulate", parameters={**_some(LEARNING, "profile", "variants"), "games": 1}
        )
        assert stack.ended(first)["state_type"] == "COMPLETED"
        stack.up("--gateway", "--scenario home --variants b-fft,control --idle 1")
        stack.wait(lambda: [True] if _ready(stack) else [], 300)
        of_games = {"RESPECT_STORE": f"s3://{BUCKET}/games", "MLFLOW_TRACKING_URI": ""}
        game = Game(tmp_path / "games", free_ports()[1], of_games)
        game.start()
        stack.wait(lambda: [True] if game.has_stored_all() else [], 300)
        faults = Faults(stack, game, SEED, _say)
        talkers = Talkers(stack.stack.gateway, stack.stack.password.read_text())
        players, operators = Players(game.port), Operators(stack, judge.url, _say)
        try:
            with operators:
                with talkers, players:
                    faults.run(60 * MINUTES)
                    _say(f"no more accidents: {len(faults.done)} happened, {faults.missed} had nothing to hurt")
                    time.sleep(30)
                _say(f"failures that users saw: {dict(talkers.failures)}; players: {dict(players.failures)}")
            _say("the last round after the accidents")
            last = operators.run(ROUND, QUIET, parameters=operators.round)
            stack.wait(lambda: [True] if _ready(stack) else [], 300)
            promoted = operators.run("deployed-promote/promote", QUIET, parameters=GATE)
            stack.wait(lambda: [True] if game.has_stored_all() else [], 120)
        finally:
            game.end()
        store, games = stack.store(), open_store(of_games["RESPECT_STORE"])
        stack.wait(lambda: [True] if _all_stored(store, talkers) else [], 120)
        wrong = audit.nothing_held(stack, store, QUIET)
        wrong += audit.conversations(store, talkers.answered, figures)
        wrong += audit.games(games, players.acknowledged, figures)
        wrong += audit.exported(store, tmp_path / "clean", figures)
        wrong += audit.exported(games, tmp_path / "clean-games", figures_of_games := {})
        wrong += audit.released(store, stack.mlflow, figures)
        wrong += audit.registered(stack.mlflow, figures)
        wrong += [] if last else ["the round after the accidents did not complete"]
        wrong += [] if promoted else ["the promotion after the accidents did not complete"]
        assert stack.command("down").returncode == 0
        wrong += [f"left: {words}" for words in stack.processes().values()]
    ends = [f"{deployment} {state}" for deployment, state, _ in operators.ended]
    figures |= {f"{name} of games": count for name, count in figures_of_games.items()}
    figures |= {f"runs: {end}": ends.count(end) for end in sorted(set(ends))}
    for name, count in figures.items():
        _say(f"{name}: {count}")
    assert not wrong, "\n".join(wrong)
    assert figures["replies acknowledged"] and figures["turns acknowledged"]


def _all_stored(store: Any, talkers: Talkers) -> bool:
    try:
        return not audit.conversations(store, talkers.answered, {})
    except StoreError:
        return False


def _ready(stack: RunningStack) -> bool:
    try:
        return httpx.get(f"{stack.stack.gateway}/ready", timeout=30).status_code == 200
    except httpx.HTTPError:
        return False


def _some(given: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: given[name] for name in names}
