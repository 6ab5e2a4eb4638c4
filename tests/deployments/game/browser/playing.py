"""What people do on the pages, and what a page shows of a game."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from game_servers import Running
from playwright.sync_api import Page, expect

from deployments.game.domain.table import Table

DESKTOP, PHONE = {"width": 1280, "height": 800}, {"width": 360, "height": 640}


def url(running: Running, path: str = "/") -> str:
    return f"http://127.0.0.1:{running.port}{path}"


def consent(page: Page) -> None:
    page.get_by_role("checkbox").check()
    page.get_by_role("button", name="Continue").click()


def begin(page: Page, running: Running) -> None:
    """From the start page into a game with a policy."""
    page.goto(url(running))
    page.get_by_role("button", name="Play now").click()
    consent(page)
    heading(page, "Your turn: describe")


def meet(page: Page, running: Running) -> None:
    """From the start page into the lobby, or to the one who waits there."""
    page.goto(url(running))
    page.get_by_role("button", name="Find a partner").click()
    consent(page)
    page.wait_for_url("**/play")


def heading(page: Page, name: str) -> None:
    """Wait for a heading."""
    expect(page.get_by_role("heading", name=name)).to_be_visible(timeout=60_000)


def say(page: Page, text: str) -> None:
    page.get_by_label("Describe what to select").fill(text)
    page.keyboard.press("Enter")


def table(running: Running) -> Table:
    """The newest game."""
    return list(running.rooms.tables.values())[-1]


def roles(one: Page, other: Page) -> tuple[Page, Page]:
    """Who of two partners speaks, and who listens."""
    one.locator("#board .tile").first.wait_for()
    return (one, other) if one.get_by_label("Describe what to select").is_visible() else (other, one)


def labels(page: Page) -> list[str]:
    """Names of the pictures, as a screen reader says them."""
    return [tile.get_attribute("aria-label") or "" for tile in page.locator("#board .tile").all()]


class Line:
    """A line between browsers and a server, which can be cut: what is open breaks, and nothing new gets through."""

    def __init__(self, port: int) -> None:
        self._target, self._open, self.whole = port, set[socket.socket](), True
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        self.whole = False
        for each in list(self._open):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        self.whole = True

    def close(self) -> None:
        self.cut()
        self._server.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near = self._server.accept()[0]
                if not self.whole:
                    near.close()
                    continue
                far = socket.create_connection(("127.0.0.1", self._target))
                for source, target in ((near, far), (far, near)):
                    self._open.add(source)
                    threading.Thread(target=self._pump, args=(source, target), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        self._open.discard(source)
        for each in (source, target):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


@contextmanager
def line(port: int) -> Iterator[Line]:
    """Until the block ends."""
    made = Line(port)
    try:
        yield made
    finally:
        made.close()
