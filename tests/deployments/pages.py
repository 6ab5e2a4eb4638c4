"""Pages of a FastAPI application in a Chromium. `RESPECT_SHOTS=FOLDER` keeps screenshots."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from playwright.sync_api import Browser, Page
from policy_servers import until


@contextmanager
def served(app: FastAPI) -> Iterator[str]:
    """Yield the address at which it answers."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    until(lambda: server.started)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


@contextmanager
def opened(browser: Browser, url: str, **options: Any) -> Iterator[Page]:
    """Yield a page; fail for scripts that broke, and for what the Content-Security-Policy refused."""
    complaints: list[str] = []
    context = browser.new_context(**options)
    page = context.new_page()
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda said: complaints.append(said.text) if "Security" in said.text else None)
    page.goto(url)
    yield page
    context.close()
    assert not complaints


def shot(page: Page, name: str) -> None:
    """Keep a screenshot, where they are asked for."""
    if folder := os.environ.get("RESPECT_SHOTS"):
        page.screenshot(path=Path(folder, f"{name}.png"), full_page=True)
