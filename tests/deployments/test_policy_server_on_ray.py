"""The policy server on a real Ray Serve: one replica acts as the server in this process does, and two as one."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from forked import Forked
from paths import REPOSITORY
from policy_servers import (
    MODEL,
    PATIENCE,
    SEED,
    PlayedGame,
    Running,
    by_hand,
    promote,
    registered,
    serving,
    until,
)

from respect_core.acting.served_turns import read
from tasks.support.workspace import Workspace

pytestmark = [pytest.mark.ray, pytest.mark.timeout(1800)]
pytest.importorskip("ray", reason="Ray is not installed: pip install -c constraints.txt -e '.[ray]'")
FIRST, SECOND = f"{MODEL}/1", f"{MODEL}/2"


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """One node, which finds the packages of this tree."""
    import ray

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")  # or it leaves a token in the home directory
        patch.setenv("PYTHONPATH", f"{REPOSITORY}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
        # A busy machine may hold a process for minutes.
        patience = {"health_check_timeout_ms": 600_000, "health_check_period_ms": 1000}
        ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, _system_config=patience)
        patch.setenv("RAY_ADDRESS", ray.get_runtime_context().gcs_address)  # for the command
        yield
        ray.shutdown()


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    return registered(tmp_path)


@contextmanager
def on_ray(place: Workspace, replicas: int, **settings: Any) -> Iterator[Running]:
    """The server on Ray, with a client; as `policy_servers.serving`."""
    from deployments.serving.base import Settings
    from deployments.serving.on_ray import serving as serving_on_ray

    given = Settings(**{"variants": ("b-fft",), "every": 0.2, "flush": 0.5} | settings)
    limits = httpx.Limits(max_connections=64, max_keepalive_connections=64)
    with (
        serving_on_ray(place, given, replicas=replicas, host="127.0.0.1", port=0) as address,
        httpx.Client(base_url=address, timeout=PATIENCE, limits=limits) as client,
    ):
        running = Running(None, client)  # type: ignore[arg-type]  # the servers are in other processes
        until(lambda: client.get("/ready").status_code == 200)
        yield running


def _play(running: Running, games: list[PlayedGame], turns: int) -> None:
    """All at once."""
    with ThreadPoolExecutor(len(games)) as pool:
        list(pool.map(lambda game: game.play(running, turns), games))


def _acts(games: list[PlayedGame]) -> list[list[str]]:
    return [[reply["action"] for reply in game.replies] for game in games]


def test_one_replica_is_the_server_of_this_process(cluster: None, place: Workspace) -> None:
    """The same acts, refusals and pages; what was served is in the store once it has ended."""
    refused = PlayedGame("refused").request(turns=[{"utterance": "a", "action": "select Z"}])
    answers = []
    with serving(place) as here:
        mine = [PlayedGame(f"game-{number}") for number in range(6)]
        _play(here, mine, 3)
        answers.append(here.act(refused).json())
    with on_ray(place, replicas=1) as there:
        games = [PlayedGame(f"game-{number}") for number in range(6)]
        _play(there, games, 3)
        answers.append(there.act(refused).json())
        assert there.act(PlayedGame("unheard").request(variant="t-rl")).status_code == 404
        assert there.client.get("/health").json() == {"status": "ok"}
        ready = there.ready()
        assert ready["following"] and ready["variants"]["b-fft"]["version"] == SEED
        assert ready["running_games"] == {SEED: 6}
        text = there.client.get("/metrics").text
        assert f'version="{SEED}"' in text and "respect_pass_turns_bucket" in text
        assert 'respect_responses_total{code="200"} 18.0' in text
        assert there.client.delete("/games/b-fft/game-0").status_code == 204
        assert there.ready()["running_games"] == {SEED: 5}
    assert _acts(games) == _acts(mine)
    probabilities = [[reply["probability"] for game in each for reply in game.replies] for each in (games, mine)]
    assert probabilities[0] == pytest.approx(probabilities[1], rel=1e-4, abs=1e-6)
    assert answers[0] == answers[1]
    served = [turn for turn in read(place.open()) if turn.game == "game-3"]
    assert len(served) == 6, "three turns here and three on Ray"


def test_games_stay_with_their_replica_and_with_their_version(cluster: None, place: Workspace) -> None:
    """Two replicas, a promotion during play, and the loss of a replica."""
    with on_ray(place, replicas=2) as running:
        old = [PlayedGame(f"old-{number}") for number in range(12)]
        _play(running, old, 1)
        before = _games_by_replica(running)
        assert sum(before.values()) == 12 and len(before) == 2 and all(before.values())
        _play(running, old, 1)
        assert _games_by_replica(running) == before, "a game went to another replica"

        promote(place, 1)
        until(lambda: running.serves(FIRST))
        new = [PlayedGame(f"new-{number}") for number in range(6)]
        _play(running, [*old, *new], 1)
        assert {version for game in new for version, _ in game.versions} == {FIRST}

        _lose_a_replica()
        until(lambda: running.client.get("/ready").status_code == 200 and len(_games_by_replica(running)) == 2)
        _play(running, [*old, *new], 2)
        assert {version for game in old for version, _ in game.versions} == {SEED}
        assert {version for game in new for version, _ in game.versions} == {FIRST}
    for version, games in ((SEED, old), (FIRST, new)):
        alone = by_hand(place, version, games)
        assert _acts(games) == [[action for action, _ in game] for game in alone]


def test_the_command_serves_until_it_is_told_to_end(cluster: None, place: Workspace, tmp_path: Path) -> None:
    """It says where, and takes away what it brought; a port that is taken is an error."""
    import ray

    log = tmp_path / "log"
    promote(place, 1)
    options = ["--on", "ray", "--variants", "b-fft,control", "--every", "0.2", "--port"]
    command = [sys.executable, "-m", "deployments.serving", *options]
    folder = place.root.parents[1]
    with log.open("w") as output:
        server = Forked([*command, "0"], cwd=folder, stderr=output)
    try:
        until(lambda: " answer at " in log.read_text() or server.poll() is not None)
        with httpx.Client(base_url=log.read_text().rpartition(" answer at ")[2].split()[0], timeout=PATIENCE) as client:
            assert client.get("/ready").status_code == 200
            reply = client.post("/act", json=PlayedGame("by-command").request())
            assert reply.status_code == 200 and reply.json()["version"] == FIRST
            control = client.post("/act", json=PlayedGame("by-command-too").request(variant="control"))
            assert control.status_code == 200 and control.json()["version"] == SEED
    finally:
        server.send_signal(signal.SIGTERM)
        assert server.wait(timeout=PATIENCE) == 0, log.read_text()
    assert [turn.action for turn in read(place.open()) if turn.game == "by-command"] == [reply.json()["action"]]
    until(lambda: not _of_ray_serve())
    assert ray.cluster_resources()["CPU"] == 4, "the cluster is not the command's"

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        refused = subprocess.run([*command, port], cwd=folder, capture_output=True, text=True)
    assert refused.returncode == 1 and f"error: cannot listen on 127.0.0.1:{port}" in refused.stderr
    assert not _of_ray_serve()


def _games_by_replica(running: Running) -> dict[str, float]:
    found: dict[str, float] = {}
    for line in running.client.get("/metrics").text.splitlines():
        if line.startswith("respect_pass_turns_count"):
            found.setdefault(line.partition('replica="')[2].partition('"')[0], 0.0)
        if line.startswith("respect_running_games{"):
            name = line.partition('replica="')[2].partition('"')[0]
            found[name] = found.get(name, 0.0) + float(line.rpartition(" ")[2])
    return found


def _lose_a_replica() -> None:
    """kill -9 of the process."""
    _of_ray_serve("ServeReplica:respect:Policies")[0].kill()


def _of_ray_serve(name: str = "Serve") -> list[psutil.Process]:
    """Processes of replicas, or the controller too."""
    processes = psutil.process_iter(["cmdline"])
    return [each for each in processes if " ".join(each.info["cmdline"] or ()).startswith(f"ray::{name}")]
