"""`make play` on a clean clone: somebody plays against the tiny policy, and the next round learns from it."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from paths import REPOSITORY
from playing import consent, heading, say
from playwright.sync_api import Page, expect

from flows.support.terminal import RUNS
from respect_core.release.lineage import learned_turns
from respect_core.store.base import Store
from respect_core.store.tables import read_table
from tasks.registry import registry
from tasks.support.workspace import Workspace, workspace

pytestmark = [pytest.mark.browser, pytest.mark.timeout(1200)]

WITHIN = 60.0
"""Seconds of the server's own computing until a game may begin; by the clock where nothing else runs."""
People = Callable[..., Page]
Shot = Callable[[Page, str], None]


@pytest.fixture
def command(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """What `make play` runs, in an empty folder; and its address."""
    recipe = re.search(
        r"^play: install.*\n\t\$\(BIN\)/respect (.*)$", (REPOSITORY / "Makefile").read_text(), re.MULTILINE
    )
    assert recipe
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    arguments = [*recipe[1].replace("$(RUN)", "main").split(), "--port", str(port)]
    server = subprocess.Popen(
        [sys.executable, "-m", "deployments.cli.main", *arguments],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
    )
    try:
        yield server, f"http://127.0.0.1:{port}"
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(120)


def test_from_nothing_to_a_version_that_learned_from_a_game(
    command: tuple[subprocess.Popen[bytes], str], people: People, shot: Shot, tmp_path: Path
) -> None:
    server, address = command
    began = time.monotonic()
    _until_it_answers(server, address, people())
    page = people()
    page.goto(address)
    play = page.get_by_role("button", name="Play now")
    expect(play).to_be_enabled(timeout=600_000)
    print(f"a game may begin after {time.monotonic() - began:.0f} s, {_computed(server):.0f} s of computing")
    assert _computed(server) < WITHIN
    place = workspace(tmp_path / RUNS / "main")
    store = place.open()
    said = ["the one like a bird", "good, and the house", "no, undo that"]
    play.click()
    consent(page)
    _play(page, said)
    shot(page, "make-play")
    _until_stored(store, 0)

    began = time.monotonic()
    _round(tmp_path, "--round", "0", "--variants", "b-fft", "--max-steps", "4")
    print(f"a round beside the game took {time.monotonic() - began:.0f} s")
    rows = read_table(store, "turns", [0]).sort_by("turn").to_pylist()
    assert [row["utterance"] for row in rows] == said
    assert [row["follow_up"] for row in rows] == [*said[1:], None]
    assert all(0 < row["probability"] <= 1 and re.fullmatch("2-[0-9a-f]{64}", row["adapter_hash"]) for row in rows)
    assert "target" not in rows[0]
    learned = [row for row in learned_turns(store, "respect.b-fft/1").to_pylist() if row["source"] == "round"]
    game, user = rows[0]["interaction_id"], rows[0]["user"]
    assert [(row["interaction_id"], row["user"], row["turn"]) for row in learned] == [(game, user, n) for n in range(3)]
    assert [row["label"] for row in learned] == [1, None, None], "of turns with a follow-up, FFT learns from the good"
    assert [version.tags["round"] for version in registry.versions(place, "b-fft")] == ["0"]
    assert _trained_seeds(place) == 1, "by the game or by the round, and not by both"

    page.goto(address)
    play.click()
    _play(page, said[:1])
    _until_stored(store, 1)


def _play(page: Page, said: list[str]) -> None:
    """A game, until the player ends it."""
    heading(page, "Your turn: describe")
    for turn, text in enumerate(said):
        say(page, text)
        expect(page.locator("#history .did")).to_have_count(turn + 1, timeout=300_000)
    page.once("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="End game").click()
    heading(page, "You ended the game")


def _until_stored(store: Store, round: int) -> None:
    """Until the log has a game of that round."""
    deadline = time.monotonic() + 60
    while not store.keys(f"interactions/round={round}/variant=b-fft/"):
        assert time.monotonic() < deadline, "the game is not in the store"
        time.sleep(0.5)


def _round(folder: Path, *options: str) -> None:
    """The command, as somebody gives it in another terminal."""
    command = [sys.executable, "-m", "deployments.cli.main", "round", *options]
    subprocess.run(command, cwd=folder, env=os.environ | {"PYTHONPATH": str(REPOSITORY)}, check=True)


def _trained_seeds(place: Workspace) -> int:
    return sum("untrained" not in version.tags for version in registry.versions(place, "seed"))


def _until_it_answers(server: subprocess.Popen[bytes], address: str, page: Page) -> None:
    deadline = time.monotonic() + 600
    while True:
        assert server.poll() is None, "the server ended"
        assert time.monotonic() < deadline
        try:
            if page.request.get(f"{address}/health").ok:
                return
        except Exception:  # it does not listen yet
            time.sleep(0.5)


def _computed(server: subprocess.Popen[bytes]) -> float:
    """Seconds of processor time of the server so far."""
    fields = Path(f"/proc/{server.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
