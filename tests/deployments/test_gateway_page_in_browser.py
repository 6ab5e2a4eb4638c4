"""The operator's page of a gateway, in a Chromium. `RESPECT_SHOTS=FOLDER` keeps its screenshots."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from pages import opened, served, shot
from playwright.sync_api import Browser, expect

from deployments.serving.gateway import operator
from deployments.serving.gateway.live import Evidence, Live
from respect_core.release.live import ServedReply, pairs, versions
from respect_core.store.open import open_store

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]
TOKEN = "an-operator-with-a-long-token"
OFFER = {"b-fft": "respect.b-fft/4", "control": "respect.seed/1", "b-kto": "respect.b-kto/2"}


def _evidence() -> Evidence:
    """Of three versions on offer, which differ, of one that was, and of labels for most follow-ups."""
    draw, replies, labels = random.Random(3), list[ServedReply](), dict[str, list[int | None]]()
    recent = list(OFFER.items())
    for number in range(900):
        old = number < 60
        variant, version = ("b-fft", "respect.b-fft/3") if old else recent[number % 3]
        weights = {"b-fft": (2, 2, 6), "control": (4, 3, 3), "b-kto": (3, 2, 5)}[variant]
        turns = draw.randint(1, 4)
        for turn in range(turns):
            replies.append(
                ServedReply(
                    interaction=f"chat-{number}-{turn}",
                    conversation=f"c{number}",
                    user=f"u{draw.randrange(150)}",
                    variant=variant,
                    version=version,
                    offered=("respect.b-fft/3", "respect.seed/1") if old else tuple(OFFER.values()),
                    time=f"2026-11-30T10:{number:06}",
                    cut=turn == turns - 1 and draw.random() < 0.05,
                    first_token=draw.uniform(0.1, 0.6),
                    seconds=draw.uniform(0.5, 6.0),
                    before=str(turn),
                    after=str(turn + 1),
                )
            )
        if number < 840:
            labels[f"chat-{number}-0"] = [draw.choices((-1, 0, 1), weights)[0] for _ in range(turns - 1)]
    measured = versions(replies, labels, OFFER.items())
    return Evidence(time.time() - 12, measured, pairs(replies, labels, measured), "SmolLM2-135M-Instruct", 4)


@pytest.fixture
def live(tmp_path: Path) -> Live:
    return Live(open_store(tmp_path), OFFER.items)


@pytest.fixture
def url(live: Live) -> Iterator[str]:
    app = FastAPI()
    settings = operator.Settings(TOKEN)
    app.mount(operator.PATH, operator.create_operator_app(settings, live, lambda: {("b-fft", "respect.b-fft/4"): 2}))
    with served(app) as url:
        yield f"{url}{operator.PATH}"


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("operator", {"color_scheme": "light", "viewport": {"width": 1280, "height": 900}}),
        ("operator-dark", {"color_scheme": "dark", "viewport": {"width": 1280, "height": 900}}),
        ("operator-phone", {"color_scheme": "light", "viewport": {"width": 400, "height": 800}}),
    ],
)
def test_the_operator_signs_in_and_sees_how_versions_differ(
    browser: Browser, url: str, live: Live, name: str, options: dict[str, Any]
) -> None:
    with opened(browser, url, **options) as page:
        page.get_by_label("Operator's token").fill("not the token, but as long")
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("alert")).to_contain_text("no operator's token")
        expect(page.get_by_role("table")).to_have_count(0)
        page.get_by_label("Operator's token").fill(TOKEN)
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("status")).to_contain_text("being computed")
        live.evidence = _evidence()
        page.reload()
        expect(page.get_by_role("alert")).to_be_hidden()
        table = page.get_by_role("table", name="Shares of follow-ups by version")
        row = table.get_by_role("row").filter(has=page.get_by_role("rowheader", name="respect.b-fft/4"))
        expect(row).to_contain_text("on offer")
        expect(row.get_by_role("img")).to_have_attribute(
            "aria-label", re.compile("negative .*%, from .*; neutral .*; positive .*")
        )
        differences = page.get_by_role("table", name="Differences between versions on offer at the same time")
        assert differences.get_by_role("img").count() >= 3
        expect(page.get_by_text("decoded by SmolLM2-135M-Instruct, up to round 4")).to_be_visible()
        expect(page.get_by_text('wait for the next round, or for "respect decode"')).to_be_visible()
        expect(page.get_by_role("table", name="Replies by version").get_by_role("row")).to_have_count(5)
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "only tables scroll sideways"
        shot(page, name)
        page.get_by_role("button", name="Sign out").click()
        expect(page.get_by_label("Operator's token")).to_be_visible()
        expect(page.get_by_role("table")).to_have_count(0)
