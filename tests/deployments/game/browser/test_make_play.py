"""`make play` on a clean clone: somebody plays against the tiny policy, and the games are in the next round."""

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
from playing import consent, heading, say
from playwright.sync_api import Page, expect

from respect_core import export
from respect_core.store import Store, open_store
from respect_core.tables import read_table

pytestmark = [pytest.mark.browser, pytest.mark.timeout(1200)]

ROOT = Path(__file__).parents[4]
WITHIN = 60.0
"""Seconds of the server's own computing until a game may begin; by the clock where nothing else runs."""
People = Callable[..., Page]
Shot = Callable[[Page, str], None]


@pytest.fixture
def command(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """What `make play` runs, in an empty folder; and its address."""
    recipe = re.search(r"^play: install.*\n\t\$\(BIN\)/respect (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert recipe
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    arguments = [*recipe[1].replace("$(RUN)", "main").split(), "--port", str(port)]
    server = subprocess.Popen(
        [sys.executable, "-m", "flows.cli", *arguments], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    try:
        yield server, f"http://127.0.0.1:{port}"
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(120)


def test_from_nothing_to_a_game_in_the_next_round(
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
    play.click()
    consent(page)
    heading(page, "Your turn: describe")
    said = ["the one like a bird", "no, undo that and try the house"]
    for turn, text in enumerate(said):
        say(page, text)
        expect(page.locator("#history .did")).to_have_count(turn + 1, timeout=300_000)
    shot(page, "make-play")
    page.on("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="End game").click()
    heading(page, "You ended the game")

    store = open_store(tmp_path / "runs" / "main" / "store")
    rows = _exported(store, len(said))
    assert [row["utterance"] for row in rows] == said
    assert [row["follow_up"] for row in rows] == [said[1], None]
    assert all(0 < row["probability"] <= 1 and re.fullmatch("[0-9a-f]{64}", row["adapter_hash"]) for row in rows)
    assert rows[0]["round"] == 0 and "target" not in rows[0]


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


def _exported(store: Store, turns: int) -> list[dict]:
    """What the first stage of `respect round` makes of the games, once they are in the store."""
    deadline = time.monotonic() + 60
    while export.export(store, 0).turns < turns:
        assert time.monotonic() < deadline, "the game is not in the store"
        time.sleep(0.5)
    return read_table(store, "turns").sort_by("turn").to_pylist()
