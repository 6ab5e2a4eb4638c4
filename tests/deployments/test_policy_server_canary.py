"""The policy server while a canary is in force: the candidate gets its share of new games, and nothing else does."""

from __future__ import annotations

import shutil
from typing import Any

import pytest
from policy_servers import (
    MODEL,
    SEED,
    PlayedGame,
    Running,
    begin_canary,
    end_canary,
    files_in_registry,
    promote,
    registered,
    serving,
    until,
)

from respect_core.acting import served_turns
from respect_core.acting.policy import Policy
from respect_core.release import canary_looks
from tasks.registry import registry
from tasks.support.workspace import Workspace

pytestmark = pytest.mark.timeout(1200)
ONE, TWO, THREE = (f"{MODEL}/{number}" for number in (1, 2, 3))


@pytest.fixture(scope="module")
def registered_place(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return registered(tmp_path_factory.mktemp("policy-server-canary"))


@pytest.fixture
def place(registered_place: Workspace) -> Workspace:
    """With version 1 promoted."""
    for folder in ("promotions", "canaries", "served"):
        shutil.rmtree(registered_place.root / "store" / folder, ignore_errors=True)
    promote(registered_place, 1)
    return registered_place


def _canary(running: Running) -> Any:
    return running.ready()["variants"]["b-fft"]["canary"]


def _played(running: Running, *names: str) -> dict[str, str]:
    """Who acts in the games, by name."""
    return {name: next(iter(PlayedGame(name).play(running).versions))[0] for name in names}


NAMES = [f"game-{number}" for number in range(24)]


def test_the_candidate_gets_its_share_of_new_games_until_the_end(place: Workspace) -> None:
    with serving(place) as running:
        until(lambda: running.serves(ONE))
        old = PlayedGame("old").play(running)
        canary = begin_canary(place, 2).canary
        assert canary is not None
        until(lambda: _canary(running) == TWO)
        assert running.serves(ONE) and running.metric(f'canary_share{{variant="b-fft",version="{TWO}"}}') == 0.5
        chosen = {name: TWO if canary.chosen(name) else ONE for name in NAMES}
        assert _played(running, *NAMES) == chosen and 4 < list(chosen.values()).count(TWO) < 20
        began = PlayedGame(next(name for name in map("late-{}".format, range(99)) if canary.chosen(name))).play(running)
        old.play(running)
        end_canary(place)
        until(lambda: _canary(running) is None)
        assert set(_played(running, *(f"after-{name}" for name in NAMES[:8])).values()) == {ONE}
        began.play(running)
        assert [{name for name, _ in game.versions} for game in (old, began)] == [{ONE}, {TWO}], "they keep it"
    turns = list(served_turns.read(place.open()))
    assert {turn.game for turn in turns if turn.version == TWO} == {
        began.name,
        *(name for name in NAMES if chosen[name] == TWO),
    }


def test_servers_agree_and_one_that_restarts_continues(place: Workspace) -> None:
    canary = begin_canary(place, 2).canary
    assert canary is not None
    found = []
    for _ in range(2):
        with serving(place) as running:
            until(lambda: _canary(running) == TWO)  # called at once
            found.append(_played(running, *NAMES[:8]))
    assert found[0] == found[1] == {name: TWO if canary.chosen(name) else ONE for name in NAMES[:8]}


def test_servers_that_share_games_ask_with_what_chance_chose(place: Workspace) -> None:
    """As on Ray, where another replica may know already with which version a game began."""
    canary = begin_canary(place, 2).canary
    assert canary is not None
    asked: dict[str, str] = {}

    async def began_with(_variant: str, game: str, version: str) -> str:
        return asked.setdefault(game, version)

    with serving(place, began_with=began_with) as running:
        until(lambda: _canary(running) == TWO)
        asked["elsewhere"] = TWO
        assert _played(running, "elsewhere", *NAMES[:8]) == asked
    assert all(asked[name] == (TWO if canary.chosen(name) else ONE) for name in NAMES[:8])


def test_a_candidate_that_does_not_load_gets_nothing_and_the_store_says_why(place: Workspace) -> None:
    file = files_in_registry(registry.named(place, THREE)) / "adapter_model.safetensors"
    good = file.read_bytes()
    file.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    try:
        begun = begin_canary(place, 3)
        with serving(place) as running:
            until(lambda: canary_looks.refused(place.open(), begun))
            assert (
                set(_played(running, *NAMES[:6]).values()) == {ONE} and running.client.get("/ready").status_code == 200
            )
    finally:
        file.write_bytes(good)
    assert f"{THREE}: its files hash to" in (canary_looks.refused(place.open(), begun) or "")
    with serving(place) as running:  # which could load it
        until(lambda: running.serves(ONE))
        assert set(_played(running, *NAMES[:6]).values()) == {ONE}


def test_a_candidate_that_fails_to_act_gets_no_more_games_anywhere(
    place: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = begin_canary(place, 2)
    assert begun.canary is not None
    first = next(name for name in NAMES if begun.canary.chosen(name))
    with serving(place) as running, serving(place) as other:
        until(lambda: _canary(running) == _canary(other) == TWO)
        candidate = running.server.roster.offers()["b-fft"].candidate
        assert candidate is not None
        write = Policy.write

        def broken(policy: Policy, *given: Any) -> Any:
            written = write(policy, *given)
            if policy is candidate.policy:
                return [type(each)(each.text, float("nan"), each.ended) for each in written]
            return written

        monkeypatch.setattr(Policy, "write", broken)
        assert running.act(PlayedGame(first).request()).status_code == 500
        assert _canary(running) is None
        until(lambda: _canary(other) is None)
        assert set(_played(running, *(f"then-{name}" for name in NAMES[:8])).values()) == {ONE}
    assert canary_looks.refused(place.open(), begun) == f"{TWO} fails to act (NotANumberError)"


def test_before_any_promotion_the_seed_policy_is_what_a_candidate_is_compared_with(place: Workspace) -> None:
    shutil.rmtree(place.root / "store" / "promotions" / MODEL)
    canary = begin_canary(place, 2).canary
    assert canary is not None
    with serving(place) as running:
        until(lambda: _canary(running) == TWO)
        assert running.serves(SEED)
        assert _played(running, *NAMES[:6]) == {name: TWO if canary.chosen(name) else SEED for name in NAMES[:6]}
