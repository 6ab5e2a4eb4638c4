"""The approvals page over a real Prefect server: who may answer, and what a run makes of the answers."""

from __future__ import annotations

import contextvars
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.flow_runs import pause_flow_run, resume_flow_run
from prefect_servers import prefect_for_tests
from typer.testing import CliRunner

from deployments.approvals.app import create_approvals_app
from deployments.cli import main
from deployments.web import people as people_module
from deployments.web.people import PROXY, People, approver_link, people_from_environment
from respect_core.release.approvals import account
from respect_core.settings import SettingsError
from tasks.release import approval
from tasks.release.approval import Approval, signed_answer
from tasks.support.workspace import Workspace, workspace

pytestmark = pytest.mark.timeout(600)
KEY, SECRET = "a-link-key-of-many-characters", "a-secret-of-the-proxy-alone"
PEOPLE = People(KEY, "X-Forwarded-User", SECRET)


@pytest.fixture(scope="module")
def server() -> Iterator[None]:
    with prefect_for_tests():
        yield


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.setenv("RESPECT_LINK_KEY", KEY)
    monkeypatch.chdir(tmp_path)
    return workspace(tmp_path / "runs" / "main")


@pytest.fixture
def page(server: None) -> TestClient:
    return TestClient(create_approvals_app(PEOPLE))


@flow(name="asks")
def asks(place: Workspace) -> dict[str, Any]:
    """Asks as a promotion does."""

    def ask(key: str, said: str) -> Approval:
        question = Approval.with_initial_data(description=f"{said}The gate lets b take the place of a:\n\n- better")
        return pause_flow_run(question, timeout=120, poll_interval=1, key=key)

    return signed_answer(place, "question", ask).model_dump()


@pytest.fixture
def run(place: Workspace, server: None) -> Iterator[Future[dict[str, Any]]]:
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(contextvars.copy_context().run, lambda: asks(place))


def _waiting(run: Future[Any], question: str = "question") -> approval.Waiting:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not run.done():
        with get_client(sync_client=True) as client:
            found = approval.waiting(client)
        if found and found[0].question == question:
            return found[0]
        time.sleep(0.3)
    raise AssertionError("nothing waits")


def _enter(page: TestClient, link: str) -> Any:
    return page.post("/api/enter", json={"token": link.partition("#")[2]})


def test_who_came_by_a_link_answers_and_the_run_knows_them(run: Future[dict[str, Any]], page: TestClient) -> None:
    asked = _waiting(run)
    assert page.get("/api/waiting").status_code == 401
    entered = _enter(page, approver_link("http://127.0.0.1:8070", "ann", 30, KEY))
    assert entered.status_code == 200 and "HttpOnly" in entered.headers["set-cookie"]
    desk = page.get("/api/waiting").json()
    assert (desk["name"], desk["identified"]) == ("ann", "link")
    assert [each["text"] for each in desk["waiting"]] == ["The gate lets b take the place of a:\n\n- better"]
    answer = {"run": str(asked.run), "question": "of before", "approve": True}
    assert page.post("/api/answer", json=answer).status_code == 409, "not what was shown"
    done = page.post("/api/answer", json=answer | {"question": asked.question, "note": "looked at it"})
    assert done.status_code == 200 and done.json()["waiting"] == []
    given = run.result(60)
    assert (given["name"], given["identified"], given["approve"]) == ("ann", "link", True)
    assert given["note"] == "looked at it" and given["run"] == str(asked.run)
    assert page.post("/api/answer", json=answer).status_code == 409, "once"


def test_what_is_typed_into_prefect_or_signed_elsewhere_leaves_the_question_open(
    run: Future[dict[str, Any]], place: Workspace
) -> None:
    asked = _waiting(run)
    resume_flow_run(asked.run, run_input={"signed": ""})
    again = _waiting(run, "question-1")
    assert "An answer was refused: nobody signed it" in again.text and "The gate lets" in again.text
    forged = people_module.Person("ann", "link")
    with get_client(sync_client=True) as client:
        approval.give(client, again, forged, "a-key-that-somebody-made-up", approve=True)
    third = _waiting(run, "question-2")
    assert "not of this installation" in third.text
    with get_client(sync_client=True) as client, pytest.raises(approval.NotWaitingError):
        approval.give(client, again, forged, KEY, approve=True)
    assert not run.done()
    shown = CliRunner().invoke(main.app, ["approve", "--run", place.root.name, "--refuse", "--note", "too early"])
    assert shown.exit_code == 0 and f"{account()} refuses" in shown.output, shown.output
    given = run.result(60)
    assert (given["name"], given["identified"]) == (account(), "account")
    assert not given["approve"] and given["note"] == "too early"
    nothing = CliRunner().invoke(main.app, ["approve", "--run", place.root.name])
    assert nothing.exit_code == 1 and "no such promotion waits" in nothing.output


def test_a_proxy_names_people_if_it_proves_to_be_the_proxy(page: TestClient) -> None:
    named = {"X-Forwarded-User": "bob"}
    desk = page.get("/api/waiting", headers=named | {PROXY: SECRET}).json()
    assert (desk["name"], desk["identified"]) == ("bob", "proxy")
    for headers in (
        named,
        named | {PROXY: ""},
        named | {PROXY: SECRET[:-1]},
        {"X-Forwarded-User": " ", PROXY: SECRET},
        {"X-Forwarded-User": "b" * 101, PROXY: SECRET},
    ):
        assert page.get("/api/waiting", headers=headers).status_code == 403
    twice = [("X-Forwarded-User", "bob"), ("X-Forwarded-User", "ann"), (PROXY, SECRET)]
    assert page.get("/api/waiting", headers=twice).status_code == 403, "a client's own header beside the proxy's"
    _enter(page, approver_link("http://here", "ann", 1, KEY))
    assert page.get("/api/waiting", headers=named).status_code == 403, "no cookie makes up for it"


def test_links_end_are_for_this_page_and_come_from_this_key(page: TestClient) -> None:
    for link, reason in (
        (approver_link("http://here", "ann", -1, KEY), "its time is over"),
        (approver_link("http://here", "ann", 1, SECRET), "not ours"),
        ("http://here/#made.up", "not ours"),
    ):
        refused = _enter(page, link)
        assert refused.status_code == 401 and reason in refused.json()["reason"]
    page.cookies.set(people_module.COOKIE, approver_link("http://here", "ann", 1, KEY).partition("#")[2])
    assert page.get("/api/waiting").status_code == 401, "a link is no cookie"


def test_a_page_that_could_know_nobody_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RESPECT_LINK_KEY", "RESPECT_PROXY_HEADER", "RESPECT_PROXY_SECRET"):
        monkeypatch.delenv(name, raising=False)
    for variables, reason in (
        ({}, "set RESPECT_LINK_KEY"),
        ({"RESPECT_LINK_KEY": "short"}, "16 characters"),
        ({"RESPECT_LINK_KEY": KEY, "RESPECT_PROXY_HEADER": "X-User"}, "anybody could send that header"),
        ({"RESPECT_LINK_KEY": KEY, "RESPECT_PROXY_HEADER": "X-User", "RESPECT_PROXY_SECRET": "short"}, "16 characters"),
    ):
        with monkeypatch.context() as patch, pytest.raises(SettingsError, match=reason):
            for name, value in variables.items():
                patch.setenv(name, value)
            people_from_environment(secure=False)
    monkeypatch.setenv("RESPECT_LINK_KEY", KEY)
    assert people_from_environment(secure=True) == People(KEY, secure=True)
