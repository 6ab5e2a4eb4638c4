"""`respect serve --scenario chat`: who may reach it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI
from typer.testing import CliRunner

from deployments.serving.__main__ import app
from flows.support.guard import Guard

KEYS = "ann:0123456789abcdef"


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The applications that would be served."""
    found: list[Any] = []
    (tmp_path / "runs" / "main").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(uvicorn, "run", lambda application, **_: found.append(application))
    return found


def _serve(*options: str) -> Any:
    return CliRunner().invoke(app, ["--scenario", "chat", *options])


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "::", "example.org"])  # refused
def test_without_keys_nobody_else_reaches_it(served: list[Any], host: str) -> None:
    done = _serve("--host", host)
    assert done.exit_code == 2 and "RESPECT_GATEWAY_KEYS" in done.output and not served


def test_on_this_machine_no_other_page_talks_to_it(served: list[Any]) -> None:
    for host in ("127.0.0.1", "localhost", "::1"):
        assert _serve("--host", host).exit_code == 0
    assert [type(each) for each in served] == [Guard] * 3


def test_with_keys_it_listens_where_it_is_told(served: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESPECT_GATEWAY_KEYS", KEYS)
    assert _serve("--host", "0.0.0.0").exit_code == 0 and isinstance(served[0], FastAPI)  # with keys
    monkeypatch.setenv("RESPECT_GATEWAY_KEYS", "ann:short")
    assert "16 characters" in _serve("--host", "0.0.0.0").output  # refused


def test_the_operators_page_is_there_with_a_token_alone(served: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESPECT_GATEWAY_KEYS", KEYS)
    for token, pages in (("", 0), ("an-operator-with-a-long-token", 1)):
        monkeypatch.setenv("RESPECT_OPERATOR_TOKEN", token)
        assert _serve("--host", "0.0.0.0").exit_code == 0
        assert sum(getattr(route, "path", "") == "/operator" for route in served[-1].routes) == pages
    monkeypatch.setenv("RESPECT_OPERATOR_TOKEN", "short")
    done = _serve()
    assert done.exit_code != 0 and "RESPECT_OPERATOR_TOKEN needs 16 characters" in done.output and len(served) == 2


@pytest.mark.parametrize("shares", ["b-fft", "b-fft=x", "nobody=1"])
def test_shares_are_read_or_refused(served: list[Any], shares: str) -> None:
    assert _serve("--shares", shares).exit_code == 2 and not served
    assert _serve("--shares", "b-fft=3, control=1").exit_code == 0
