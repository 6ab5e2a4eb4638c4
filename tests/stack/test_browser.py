"""The `retrain` form in a real browser. Screenshots are kept in runs/stack/screenshots."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from paths import REPOSITORY
from playwright.sync_api import Page, sync_playwright
from running import RunningStack

from flows.support import servers
from respect_core.variants import SYSTEMS, Variant
from tasks.registry import registry

pytestmark = [pytest.mark.stack, pytest.mark.timeout(3600)]

SCREENSHOTS = REPOSITORY / "runs" / "stack" / "screenshots"
_PATIENCE = 120_000  # milliseconds: the page is loaded by a busy server


@pytest.fixture
def page(chromium: str, running: RunningStack) -> Iterator[Page]:
    """A page of somebody who typed the login at Prefect, and at MLflow where the browser asks for it."""
    password = running.stack.password.read_text()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(
            viewport={"width": 1400, "height": 1600},
            http_credentials={"username": servers.USER, "password": password, "origin": running.stack.mlflow},
        )
        page.set_default_timeout(_PATIENCE)
        page.goto(running.stack.prefect)
        page.get_by_role("button", name="Login").wait_for()
        page.locator("input").fill(f"{servers.USER}:{password}")
        _shot(page, "prefect-login")
        page.get_by_role("button", name="Login").click()
        page.wait_for_url("**/dashboard*")
        yield page
        browser.close()


def test_a_variant_is_retrained_from_the_form(running: RunningStack, learned: str, page: Page) -> None:
    """The dropdown shows six variants; what is submitted runs, and its version is in MLflow."""
    page.goto(f"{running.stack.prefect}/deployments/deployment/{running.deployment('retrain/retrain')}/run")
    page.get_by_text("Which of the six.").wait_for()
    variant = page.locator(".p-select-button__control").first
    variant.focus()
    page.keyboard.press("Space")
    options = page.get_by_role("listbox").locator(".p-select-option")
    options.first.wait_for()
    assert [text for text in dict.fromkeys(options.all_inner_texts()) if text] == list(Variant)
    _shot(page, "retrain-dropdown")
    page.get_by_role("listbox").get_by_text("b-kto", exact=True).click()
    steps = page.locator(".schema-form-property", has_text="Optimizer steps").last
    steps.get_by_text("int", exact=True).click()
    steps.locator("input").last.fill("1")
    _shot(page, "retrain-form")
    before = {run["id"] for run in running.runs("retrain/retrain")}
    page.get_by_role("button", name="Submit").click()
    deadline = time.monotonic() + 120
    while not (started := [run for run in running.runs("retrain/retrain") if run["id"] not in before]):
        assert time.monotonic() < deadline, "nothing was submitted"
        time.sleep(1)
    run = running.ended(started[0]["id"])
    assert run["state_type"] == "COMPLETED", run["state"]["message"]
    assert run["parameters"]["variant"] == "b-kto" and run["parameters"]["hyperparameters"]["max_steps"] == 1

    page.goto(f"{running.stack.prefect}/runs/flow-run/{run['id']}")
    page.get_by_text("Completed").first.wait_for()
    _shot(page, "retrain-run")
    beside = [
        each
        for each in running.mlflow.search_model_versions("name='respect.b-kto'")
        if registry.RETRAINED in each.tags and each.tags["step"] == "1"
    ]
    assert beside
    page.goto(f"{running.stack.mlflow}/#/models/respect.b-kto/versions/{beside[0].version}")
    page.get_by_text(registry.RETRAINED).first.wait_for()
    _shot(page, "retrained-version")


def test_pages_of_the_round(running: RunningStack, learned: str, page: Page) -> None:
    """The round's page in Prefect names it and its tags; in MLflow it unfolds to its six variants, with charts."""
    page.goto(f"{running.stack.prefect}/runs/flow-run/{learned}")
    page.get_by_text("round:0").first.wait_for()
    page.wait_for_timeout(3000)  # the graph is drawn after the rest
    _shot(page, "round-run")
    experiment = running.mlflow.get_experiment_by_name("respect")
    assert experiment is not None
    page.goto(f"{running.stack.mlflow}/#/experiments/{experiment.experiment_id}/runs?compareRunsMode=CHART")
    row = page.get_by_role("row").filter(has=page.get_by_text("round 0", exact=True))
    row.locator("[data-component-id$='runnamecellrenderer.tsx_46']").click()
    for variant in SYSTEMS:
        page.get_by_text(f"{variant} round 0", exact=True).first.wait_for()
    page.get_by_placeholder("Search metric charts").fill("exact_match|positives|illegal")
    page.get_by_text("val_exact_match", exact=True).first.wait_for()
    page.wait_for_timeout(3000)  # bars are drawn after their titles
    _shot(page, "mlflow-variants")


def _shot(page: Page, name: str) -> None:
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=Path(SCREENSHOTS, f"{name}.png"))
