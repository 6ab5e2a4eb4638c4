"""The policy server over HTTP, with real adapters in a real MLflow on SQLite: acting, and what is refused."""

from __future__ import annotations

import json
import logging
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from forked import Forked
from policy_servers import PATIENCE, SEED, PlayedGame, Running, by_hand, registered, serving

from respect_core.acting.served_turns import read
from respect_core.scenarios.multiref import actions
from tasks.support.workspace import Workspace, workspace

pytestmark = pytest.mark.timeout(1200)
GAMES, TURNS = 12, 3


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return registered(tmp_path_factory.mktemp("policy-server"))


@pytest.fixture(scope="module")
def running(place: Workspace) -> Iterator[Running]:
    with serving(place, flush=3600.0) as server:
        yield server


@pytest.fixture(scope="module")
def games(running: Running) -> list[PlayedGame]:
    """Played all at once: a pass waits until it has a turn of each."""
    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(GAMES) as pool:
        patch.setattr(running.server._batcher, "_most", GAMES)
        patch.setattr(running.server._batcher, "_wait", PATIENCE)
        return list(pool.map(lambda n: PlayedGame(f"game-{n}").play(running, TURNS), range(GAMES)))


def _acts(games: list[PlayedGame]) -> list[list[str]]:
    return [[reply["action"] for reply in game.replies] for game in games]


def _probabilities(games: list[PlayedGame]) -> list[float]:
    return [reply["probability"] for game in games for reply in game.replies]


def test_many_at_once_act_as_one_by_one(place: Workspace, running: Running, games: list[PlayedGame]) -> None:
    """Batched with kept keys and values against a policy that sees one turn at a time."""
    alone = by_hand(place, SEED, games)
    assert _acts(games) == [[action for action, _ in game] for game in alone]
    assert _probabilities(games) == pytest.approx([p for game in alone for _, p in game], rel=1e-4, abs=1e-6)
    assert running.metric("pass_turns_sum") == GAMES * TURNS and running.metric("pass_turns_count") == TURNS
    kept = [version.policy.writer.cache._games for version in running.server.roster.deployed().values()]
    assert [len(each) for each in kept] == [GAMES]


def test_replies_say_who_acted_and_how(games: list[PlayedGame]) -> None:
    assert len({version for game in games for version in game.versions}) == 1
    for game in games:
        state = ""
        for number, reply in enumerate(game.replies):
            assert reply["version"] == SEED and len(reply["adapter_hash"]) == len("2-") + 64
            assert reply["variant"] == "b-fft" and reply["turn"] == number and reply["seed"] == 0
            assert reply["legal"] and 0 < reply["probability"] <= 1 and reply["latency_ms"] > 0
            state = actions.step(reply["action"], state, len(game.context))


def test_a_game_that_is_not_in_memory_goes_on_equally(place: Workspace, games: list[PlayedGame]) -> None:
    """On another server, without memory for keys and values, asked for the last turns only."""
    with serving(place, cache_bytes=0, most=1, flush=3600.0) as other:
        for game in games[:4]:
            again = other.act(game.requests[-1]).json()
            assert again["action"] == game.replies[-1]["action"]
            assert again["probability"] == pytest.approx(game.replies[-1]["probability"], rel=1e-4)


def test_the_seed_decides(running: Running, games: list[PlayedGame]) -> None:
    request = games[0].requests[0]
    drawn = [running.act(request | {"seed": seed}).json()["action"] for seed in (0, 0, *range(1, 12))]
    assert drawn[0] == drawn[1] == games[0].replies[0]["action"]
    assert len(set(drawn)) > 1
    assert running.act(request | {"seed": 0, "game": "another"}).json()["seed"] == 0


BAD: list[tuple[dict[str, Any], int, str, str]] = [
    ({"variant": "c-fft"}, 404, "variant", "'c-fft' is not served; there are: b-fft"),
    ({"variant": "t-fft"}, 404, "variant", "not served"),
    ({"game": "a user@example.org"}, 422, "game", "pattern"),
    ({"game": ""}, 422, "game", "pattern"),
    ({"context": ["image-0"]}, 422, "context", "at least 2"),
    ({"context": ["image-0", "image-0"]}, 422, "", "context names an image twice"),
    ({"context": [f"image-{n}" for n in range(11)]}, 422, "context", "at most 10"),
    ({"context": ["image-0", "../secret"]}, 422, "context[1]", "pattern"),
    ({"context": ["image-0", "unheard-of"]}, 422, "context", "names an image that the store does not have"),
    ({"utterance": "  "}, 422, "utterance", "pattern"),
    ({"utterance": "x" * 501}, 422, "utterance", "at most 500"),
    (
        {"utterance": "\ufdfa" * 500},
        422,
        "utterance",
        "has 9000 characters in its normal form, at most 500",
    ),
    ({"utterance": "!" * 500}, 422, "utterance", "has 500 tokens, of which 128 are allowed; shorten it"),
    (
        {"turns": [{"utterance": "!" * 129, "action": "select A"}]},
        422,
        "turns[0].utterance",
        "has 129 tokens, of which 128 are allowed; shorten it",
    ),
    ({"utterance": "\U000e0041\u200b"}, 422, "utterance", "nothing that can be seen"),
    ({"utterance": 7}, 422, "utterance", "valid string"),
    ({"turns": [{"utterance": "a bird", "action": "select Z"}]}, 422, "turns[0].action", "not in the action language"),
    ({"turns": [{"utterance": "a bird", "action": "select C"}]}, 422, "turns[0].action", "the context has 2 images"),
    ({"turns": [{"utterance": "a bird", "action": "select B A"}]}, 422, "turns[0].action", "write 'select A B'"),
    ({"turns": [{"utterance": "a bird", "action": "deselect A"}]}, 422, "turns[0].action", "not selected"),
    ({"turns": [{"utterance": "a bird", "action": "nothing"}] * 10}, 422, "turns", "at most 9"),
    ({"turns": [{"utterance": "a bird"}]}, 422, "turns[0].action", "required"),
    ({"seed": -1}, 422, "seed", "greater than or equal to 0"),
    ({"seed": "0"}, 422, "seed", "valid integer"),
    ({"scenario": "chess"}, 422, "scenario", "multiref"),
    ({"user": "ann"}, 422, "user", "not permitted"),
]


@pytest.mark.parametrize(("change", "code", "field", "reason"), BAD, ids=lambda value: str(value)[:40])
def test_bad_input_is_named(running: Running, change: dict[str, Any], code: int, field: str, reason: str) -> None:
    request = {"variant": "b-fft", "game": "g", "context": ["image-0", "image-1"], "utterance": "a bird"} | change
    answer = running.act(request)
    assert answer.status_code == code
    assert answer.json()["field"] == field and reason in answer.json()["reason"]


def test_what_is_too_long_is_told_before_it_is_played(running: Running) -> None:
    acts = running.metric("pass_turns_sum")
    request = {"variant": "b-fft", "game": "g", "context": ["image-0", "image-1"], "utterance": "a bird"}
    assert running.client.post("/check", json=request).json() == {"fits": True}
    refused = running.client.post("/check", json=request | {"utterance": "!" * 500})
    assert (refused.status_code, refused.json()["field"]) == (422, "utterance")
    assert running.metric("pass_turns_sum") == acts, "nothing was drawn"


def test_other_bodies_are_refused(running: Running) -> None:
    cut_short = running.client.post("/act", content=b"{", headers={"Content-Type": "application/json"})
    assert (cut_short.status_code, cut_short.json()) == (422, {"field": "", "reason": "not JSON"})
    assert running.client.post("/act", json=[]).status_code == 422
    large = running.act(PlayedGame("large").request(utterance="x" * 200_000))
    assert large.status_code == 413 and "more than 131072 bytes" in large.json()["reason"]
    assert running.client.get("/act").status_code == 405
    assert PlayedGame("after").play(running).codes == [200]


def test_every_turn_is_logged_with_who_acted_and_no_word_of_the_user(
    place: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with serving(place, flush=3600.0) as running:
        played = [PlayedGame(f"logged-{n}").play(running, 2, utterance="zanzibar") for n in range(3)]
        running.act(played[0].request(utterance="zanzibar", context=["image-0", "unheard-of"]))
    store = place.open()
    logged = {(each.game, each.turn): each for each in read(store) if each.game.startswith("logged")}
    assert len(logged) == 6
    for game in played:
        for reply in game.replies:
            line = logged[game.name, reply["turn"]]
            assert line.model_dump(exclude={"time", "game", "temperature"}) == reply
    assert "zanzibar" not in caplog.text
    assert not any(b"zanzibar" in store.read(key) for key in store.keys("served/"))


def test_a_turn_that_cannot_be_logged_is_not_answered(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(running.server._lines, "add", full)
    answer = running.act(PlayedGame("unlogged").request())
    assert answer.status_code == 503 and answer.headers["Retry-After"] == "1"
    assert answer.json()["reason"] == "the server cannot write its log"
    monkeypatch.undo()
    assert PlayedGame("unlogged").play(running).codes == [200]


def test_without_any_version_it_is_healthy_and_not_ready(tmp_path: Path) -> None:
    empty = workspace(tmp_path)
    with serving(empty, ready=False) as running:
        assert running.client.get("/health").json() == {"status": "ok"}
        while not running.ready()["variants"]["b-fft"]["refused"]:
            time.sleep(0.05)
        answer = running.client.get("/ready")
        assert answer.status_code == 503 and not answer.json()["ready"]
        reason = answer.json()["variants"]["b-fft"]["refused"]
        assert "was never promoted, and the registry has no seed policy" in reason and "sqlite" not in reason
        act = running.act({"variant": "b-fft", "game": "g", "context": ["a", "b"], "utterance": "a bird"})
        assert act.status_code in (422, 503)  # the image is missing too


def test_the_command_serves_until_it_is_told_to_end(place: Workspace, tmp_path: Path) -> None:
    log = tmp_path / "log"
    command = [sys.executable, "-m", "deployments.cli.main", "serve", "--port", "0", "--every", "0.2"]
    with log.open("w") as output:
        server = Forked(command, cwd=place.root.parents[1], stderr=output)
    try:
        address = _address(server, log)
        with httpx.Client(base_url=address, timeout=240) as client:
            while client.get("/ready").status_code != 200:
                assert server.poll() is None, log.read_text()
                time.sleep(0.1)
            reply = client.post("/act", json=PlayedGame("by-command").request())
            assert reply.status_code == 200 and reply.json()["version"] == SEED
            control = client.post("/act", json=PlayedGame("by-command-too").request(variant="control"))
            assert control.status_code == 200 and control.json()["version"] == SEED
    finally:
        server.send_signal(signal.SIGTERM)
        assert server.wait(timeout=240) in (0, -signal.SIGTERM)
    assert json.loads(reply.text)["action"] in {each.action for each in read(place.open()) if each.game == "by-command"}


def test_the_command_names_what_it_could_serve(place: Workspace, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "deployments.cli.main", "serve", "--variants", "b-fft,hh"]
    with (log := tmp_path / "log").open("w") as output:
        assert Forked(command, cwd=place.root.parents[1], stderr=output).wait() == 2
    assert "no variant hh; there are: b-fft, " in " ".join(log.read_text().replace("│", " ").split())


def _address(server: Forked, log: Path) -> str:
    while True:
        for line in log.read_text().splitlines():
            if "running on " in line:
                return line.split("running on ")[1].split()[0]
        assert server.poll() is None, log.read_text()
        time.sleep(0.1)
