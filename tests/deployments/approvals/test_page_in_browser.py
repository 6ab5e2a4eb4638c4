"""The approvals page in a Chromium, over promotions that somebody made up. `RESPECT_SHOTS=FOLDER` keeps screenshots."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from pages import opened, served, shot
from playwright.sync_api import Browser, expect

from deployments.approvals.app import create_approvals_app
from deployments.web.people import People, approver_link
from respect_core.release.approvals import Person
from tasks.release import approval
from tasks.release.approval import Waiting

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]
KEY = "a-link-key-of-many-characters"
TEXT = """The gate lets {new} take the place of {old}:

- exact match 61.3% against 57.9% on 265 games: better by 3.4 points, certainly by 0.4
- no worse than the seed policy: better by 9.8 points, certainly by 5.1
- 1,204 turns with feedback, at most 4.1% of them from one user"""
REFUSED = "<b>An answer</b> was refused: nobody signed it: answer on the approvals page, or with `respect approve`.\n\n"


class Made:
    """Promotions that wait, and the answers that they were given."""

    def __init__(self) -> None:
        now = datetime(2026, 12, 1, 9, 30, tzinfo=UTC)
        self.waiting = [
            Waiting(
                UUID(int=1),
                "promote b-fft",
                "q1",
                TEXT.format(new="respect.b-fft/4", old="respect.b-fft/3"),
                now,
                now + timedelta(days=1),
            ),
            Waiting(
                UUID(int=2),
                "promote t-kto",
                "q2-1",
                REFUSED + TEXT.format(new="respect.t-kto/2", old="respect.seed/1"),
                now,
                None,
            ),
        ]
        self.answers: list[dict[str, Any]] = []

    def give(self, _: Any, asked: Waiting, person: Person, key: str, **answer: Any) -> None:
        self.answers.append({"name": asked.name, "person": str(person), **answer})
        self.waiting.remove(asked)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Made:
    made = Made()
    monkeypatch.setattr(approval, "waiting", lambda _: list(made.waiting))
    monkeypatch.setattr(approval, "asked_by", lambda _, run: next(each for each in made.waiting if each.run == run))
    monkeypatch.setattr(approval, "give", made.give)
    return made


@pytest.fixture
def url(made: Made) -> Iterator[str]:
    app = create_approvals_app(People(KEY), lambda: nullcontext(None))  # type: ignore[arg-type]  # it is never asked
    with served(app) as url:
        yield url


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("approvals", {"color_scheme": "light", "viewport": {"width": 1000, "height": 800}}),
        ("approvals-phone-dark", {"color_scheme": "dark", "viewport": {"width": 400, "height": 800}}),
    ],
)
def test_somebody_comes_by_a_link_and_answers(
    browser: Browser, url: str, made: Made, name: str, options: dict[str, Any]
) -> None:
    with opened(browser, url, **options) as page:
        expect(page.get_by_role("alert")).to_contain_text("open the link that you were given")
        shot(page, f"{name}-stranger")
        page.goto(approver_link(url, "ann", 30, KEY))
        first = page.get_by_role("region", name="promote b-fft")
        expect(first.get_by_role("listitem")).to_have_count(3)
        expect(page.get_by_text("You are ann, identified by your link")).to_be_visible()
        assert page.url == f"{url}/", "the link leaves the address"
        expect(page.get_by_role("region", name="promote t-kto")).to_contain_text("<b>An answer</b> was refused")
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        first.get_by_label("Note for the ledger").fill("looked at it")
        shot(page, name)
        first.get_by_role("button", name="Approve").click()
        expect(page.get_by_role("status")).to_contain_text("Approved: promote b-fft")
        expect(first).to_have_count(0)
        page.get_by_role("region", name="promote t-kto").get_by_role("button", name="Refuse").click()
        expect(page.get_by_text("Nothing waits.")).to_be_visible()
        shot(page, f"{name}-done")
        assert made.answers == [
            {"name": "promote b-fft", "person": "ann (link)", "approve": True, "note": "looked at it"},
            {"name": "promote t-kto", "person": "ann (link)", "approve": False, "note": ""},
        ]
        page.get_by_role("button", name="Sign out").click()
        expect(page.get_by_role("alert")).to_contain_text("open the link that you were given")
