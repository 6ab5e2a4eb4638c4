"""Fixtures that several test modules use: stores on a directory and on a real S3 server, and the shared data."""

from __future__ import annotations

import gc
import os
import random
import shutil
import socket
import sqlite3
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import seaweedfs
from paths import REPOSITORY
from seaweedfs import S3Server

from respect_core.store.base import Store
from respect_core.store.open import open_store

LONGEST = (
    *("test_round.py", "test_promote.py", "test_study.py", "flows", "deployments", "learning"),
    *("test_one_round.py", "test_extras.py"),
)
"""Files and folders of tests, the longest first: whoever is done early takes the short ones (see `make test`)."""

# A run of the suite fails for what changed, not for the examples of the day or a machine that pauses.
# `pytest --hypothesis-profile explore` draws new ones.
hypothesis.settings.register_profile("suite", derandomize=True, deadline=None)
hypothesis.settings.register_profile("explore", deadline=None, max_examples=1000)
hypothesis.settings.load_profile("suite")


def pytest_configure() -> None:
    """Collect no garbage while tests are imported, which leaves little and allocates much."""
    gc.disable()


def pytest_collection_finish() -> None:
    """From here on, do not search what was imported."""
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        return next((number for number, name in enumerate(LONGEST) if name in item.path.parts), len(LONGEST))

    items.sort(key=place)
    for item in items:
        if isinstance(item, pytest.Function) and "s3_server" in item.fixturenames:
            item.add_marker("s3")


@pytest.fixture(autouse=True)
def same_chance() -> None:
    """Draw the same where a test does not say what is drawn: nothing passes or fails by luck."""
    random.seed(0)
    if torch := sys.modules.get("torch"):  # no test that was collected has to do with it otherwise
        torch.manual_seed(0)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Data that is not part of the project: RESPECT_SHARED, or ../shared beside the repository."""
    path = Path(os.environ.get("RESPECT_SHARED", REPOSITORY.parent / "shared"))
    if not path.is_dir():
        pytest.skip(f"{path} is absent; set RESPECT_SHARED to run this on the real data")
    return path


def _copy(database: str | Path, to: str | Path) -> None:
    with closing(sqlite3.connect(database)) as done, closing(sqlite3.connect(to)) as new:
        done.backup(new)


@pytest.fixture(scope="session", autouse=True)
def mlflow_migrated_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Have MLflow's migrations, more than a second each time, run for one database; others begin as its copies."""
    if "mlflow" not in sys.modules:  # no test that was collected has to do with it
        yield
        return
    from mlflow.store.db import utils

    migrate, template = utils._initialize_tables, tmp_path_factory.mktemp("mlflow") / "empty.db"

    def initialize(engine: Any) -> None:
        if template.exists():
            _copy(template, engine.url.database)
        else:
            migrate(engine)
            _copy(engine.url.database, made := template.with_name(uuid.uuid4().hex))
            made.replace(template)  # whole, whoever asks at the same time

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(utils, "_initialize_tables", initialize)
        yield


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """Started once a session."""
    with seaweedfs.s3_server(tmp_path_factory.mktemp("seaweedfs")) as server:
        yield server


@pytest.fixture(params=["directory", "s3"])
def new_store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Store]:
    """Makes empty stores, of one kind and then of the other."""
    if request.param == "directory":
        return lambda: open_store(tmp_path / uuid.uuid4().hex)
    server: S3Server = request.getfixturevalue("s3_server")
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    return lambda: open_store(f"s3://{server.bucket}/{uuid.uuid4().hex}")


@pytest.fixture
def store(new_store: Callable[[], Store]) -> Store:
    """An empty store, of one kind and then of the other."""
    return new_store()


@pytest.fixture(scope="session")
def chromium() -> str:
    """Where the browser is: the headless shell. Without a window, the whole Chromium at times closes no page (156)."""
    path = shutil.which("chromium-headless-shell")
    if path is None:
        pytest.skip("no headless Chromium on this machine; on Debian: apt-get install chromium-headless-shell")
    return path


@pytest.fixture(scope="session")
def browser(chromium: str) -> Iterator[Any]:
    """A Chromium, one for all tests of a session: Playwright runs once in a thread."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store to train a seed policy from (trainings.py); copy it."""
    import trainings  # loads torch, which most tests do without

    return trainings.people(tmp_path_factory.mktemp("people"))


@pytest.fixture
def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
    return port
