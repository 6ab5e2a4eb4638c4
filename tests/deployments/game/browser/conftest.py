"""Game servers and a Chromium for the tests of this folder. `RESPECT_SHOTS=FOLDER` keeps their screenshots."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from game_servers import Running, rooms, serving
from playing import DESKTOP
from playwright.sync_api import Browser, BrowserContext, Page

PATIENCE = 60_000  # milliseconds: the machine may be busy


@pytest.fixture
def people(browser: Browser) -> Iterator[Callable[..., Page]]:
    """New people, each with a browser of their own.

    What their pages complain of fails the test at its end: scripts that break, and whatever the
    Content-Security-Policy refuses.
    """
    complaints: list[str] = []
    contexts: list[BrowserContext] = []

    def person(**options: Any) -> Page:
        contexts.append(browser.new_context(**{"viewport": DESKTOP, "color_scheme": "light"} | options))
        contexts[-1].set_default_timeout(PATIENCE)
        page = contexts[-1].new_page()
        watch(page, complaints)
        return page

    yield person
    for context in contexts:
        context.close()
    assert not complaints


def watch(page: Page, complaints: list[str]) -> None:
    """Gather what a page complains of; answers like 401 and lost connections are not its fault."""
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on(
        "console",
        lambda said: (
            complaints.append(said.text)
            if said.type == "error" and not re.search(r"Failed to load resource|WebSocket connection", said.text)
            else None
        ),
    )


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """Game servers by their settings, as `game_servers.rooms`; each with a folder of its own."""
    with ExitStack() as stack:
        count = iter(range(100))
        yield lambda *args, **settings: stack.enter_context(
            serving(rooms(tmp_path / f"run{next(count)}", *args, **settings))
        )


@pytest.fixture
def shot(request: pytest.FixtureRequest) -> Callable[[Page, str], None]:
    """Keeps a screenshot where RESPECT_SHOTS names a folder."""
    folder = os.environ.get("RESPECT_SHOTS")

    def take(page: Page, name: str) -> None:
        if folder:
            page.screenshot(path=Path(folder, f"{name}.png"))

    return take
