"""The way of a study's participant, the operator's page and the lobby's end."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest
from game_servers import Running
from playing import consent, heading, say, table, url
from playwright.sync_api import Page, expect

from deployments.game.domain import quiz
from deployments.game.domain.contexts import ContextRecipe, of_study
from deployments.game.domain.study import Study, StudyFile
from deployments.game.domain.table import Clocks
from respect_core.log.pseudonyms import pseudonym
from tasks.support.workspace import workspace

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]

SLOW = Clocks(writing=300, acting=300)
TOKEN = "an-operator-with-a-long-token"
Serve = Callable[..., Running]
People = Callable[..., Page]
Shot = Callable[[Page, str], None]


def _study(folder: Path, **fields: object) -> Study:
    file = StudyFile.model_validate(
        {"name": "pilot", "round": 1, "policies": {"b-fft": 1}, "contexts": ContextRecipe(games=2, seed="pages")}
        | fields
    )
    assert isinstance(file.contexts, ContextRecipe)
    return Study(file, of_study(workspace(folder).open(), file.contexts))


def _join(page: Page, running: Running, participant: str) -> None:
    page.goto(url(running, f"/?study=pilot&participant={participant}"))
    page.get_by_role("button", name="Join").click()
    heading(page, "Study: pilot")


def _qualify(page: Page, shot: Shot | None = None) -> None:
    """Consent, a practice round, and the quiz: first with a wrong answer."""
    page.get_by_role("button", name="Continue").click()
    consent(page)
    heading(page, "How the game works")
    if shot:
        shot(page, "instructions")
    page.get_by_role("button", name="Start the practice round").click()
    heading(page, "Your turn: describe")
    targets = page.locator("#board .tile.target").count()
    for turn in range(targets):  # the listener selects one more target, whatever is written
        say(page, "whatever I write is understood")
        expect(page.locator("#board .tile.right")).to_have_count(turn + 1)
    heading(page, "You won!")
    page.get_by_role("button", name="Continue").click()
    heading(page, "A few questions first")
    for question in quiz._QUESTIONS:
        page.get_by_role("group", name=question.text).get_by_label(question.options[question.right]).check()
    last = page.get_by_role("group", name=question.text)
    last.get_by_label(question.options[0]).check()
    page.get_by_role("button", name="Check my answers").click()
    expect(page.get_by_role("alert")).to_contain_text("One answer is not right")
    if shot:
        shot(page, "quiz")
    expect(last.get_by_role("radio").first).to_be_focused()
    last.get_by_label(question.options[question.right]).check()
    page.get_by_role("button", name="Check my answers").click()
    heading(page, "Study: pilot")


def test_a_participant_from_the_link_to_the_payment(serve: Serve, people: People, shot: Shot, tmp_path: Path) -> None:
    """No game before consent, practice and quiz; the operator stops and starts; payments name pseudonyms only."""
    study = _study(tmp_path / "run0")
    running = serve(study, clocks=SLOW, operator_token=TOKEN)
    page, operator = people(), people()
    _join(page, running, "WORKER-1")
    assert "WORKER-1" not in page.url
    refused = page.request.post(
        url(running, "/api/games"), data={"mode": "study"}, headers={"Content-Type": "application/json"}
    )
    assert refused.status == 403
    _qualify(page, shot)

    operator.goto(url(running, "/operator"))
    operator.get_by_label("Operator's token").fill("not the token, but as long")
    operator.get_by_role("button", name="Sign in").click()
    expect(operator.get_by_role("alert")).to_contain_text("no operator's token")
    operator.get_by_label("Operator's token").fill(TOKEN)
    operator.get_by_role("button", name="Sign in").click()
    operator.get_by_role("button", name="Stop the study").click()
    expect(operator.get_by_text("The study is stopped")).to_be_visible()
    page.reload()
    expect(page.get_by_text("The study is stopped for now")).to_be_visible()
    expect(page.get_by_role("button", name="Start a game")).to_be_disabled()
    operator.get_by_role("button", name="Start the study").click()
    expect(operator.get_by_text("The study is open")).to_be_visible()
    page.reload()
    page.get_by_role("button", name="Start a game").click()
    heading(page, "Your turn: describe")
    say(page, f"select {' '.join(table(running).context.target_letters)}")
    heading(page, "You won!")

    operator.reload()
    row = operator.get_by_role("row").filter(has=operator.get_by_role("rowheader", name="b-fft"))
    expect(row).to_contain_text("100%")
    expect(row.get_by_role("img")).to_have_attribute("aria-label", "100%, interval from 100% to 100%")
    shot(operator, "operator")
    with operator.expect_download() as download:
        operator.get_by_role("link", name="Payments (CSV)").click()
    with download.value.path().open() as file:
        (paid,) = csv.DictReader(file)
    assert paid["user"] == pseudonym("WORKER-1") and paid["pay"] == "0.81" and paid["ended"] == "won"
    for path in ("state", "payments.csv"):
        assert people().request.get(url(running, f"/api/operator/{path}")).status == 401


def test_a_full_study_says_so_before_consent_and_quiz(serve: Serve, people: People, tmp_path: Path) -> None:
    study = _study(tmp_path / "run0")
    running = serve(study, clocks=SLOW)
    for _ in study.contexts:
        study.assignment.draw()
    page = people()
    _join(page, running, "WORKER-9")
    expect(page.get_by_text("Every game of this study is taken")).to_be_visible()
    expect(page.get_by_role("button", name="Continue")).to_be_disabled()


def test_nobody_comes_and_the_wait_ends_honourably(serve: Serve, people: People, tmp_path: Path) -> None:
    study = _study(tmp_path / "run0", policies={"hh": 1}, lobby_seconds=3)
    running = serve(study, clocks=SLOW)
    page = people()
    _join(page, running, "WORKER-2")
    _qualify(page)
    page.get_by_role("button", name="Start a game").click()
    heading(page, "Waiting for another player")
    heading(page, "Nobody came this time")
    expect(page.locator("#none-text")).to_contain_text("the wait counts")


def test_without_a_token_in_the_environment_the_pages_are_closed(serve: Serve, people: People) -> None:
    running = serve()
    for path, variable in (("/operator", "RESPECT_OPERATOR_TOKEN"), ("/annotate", "RESPECT_ANNOTATOR_TOKENS")):
        page = people()
        page.goto(url(running, path))
        expect(page.get_by_role("alert")).to_contain_text(variable)
        expect(page.get_by_role("button", name="Sign in")).to_be_hidden()
