"""MLflow's pages behind our links, in a Chromium, on a real server."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from mlflow_runs import two_rounds
from mlflow_server import MlflowServer

from respect_core.variants import Variant
from tasks.registry import mlflow_pages, registry
from tasks.support.workspace import Workspace, workspace

playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: make install")
pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    folder = tmp_path_factory.mktemp("pages")
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
    server = MlflowServer(folder, port)
    server.start()
    yield workspace(folder / "run").model_copy(update={"tracking_uri": server.uri})
    server.kill()


def test_the_pages_show_what_the_links_promise(browser: playwright.Browser, place: Workspace) -> None:
    """From where MLflow opens to the six variants side by side; by exact match; one variant over rounds."""
    runs = two_rounds(place)
    pages = mlflow_pages.links(place, 1, {variant: runs[1, variant] for variant in Variant})
    mlflow_pages.describe(place, runs[1, ""], 1, pages)
    context = browser.new_context(viewport={"width": 1440, "height": 1000})
    context.set_default_timeout(60_000)
    page = context.new_page()

    page.goto(f"{place.tracking_uri}/#/experiments/{registry.experiment_id(place)}/runs")
    page.get_by_text("round 1", exact=True).first.wait_for()
    assert not page.get_by_text("b-fft round 1", exact=True).count()  # it is folded
    with context.expect_page() as opened:
        page.get_by_role("link", name="side by side").first.click()
    beside = opened.value
    beside.get_by_text(f"Comparing {len(Variant)} Runs from 1 Experiment").wait_for()
    for variant in Variant:
        beside.get_by_text(f"{variant} round 1", exact=True).first.wait_for()
    beside.get_by_text("val_exact_match", exact=True).first.wait_for()

    page.goto("about:blank")
    page.goto(pages["by_exact_match"])
    for variant in Variant:
        page.get_by_text(f"{variant} round 1", exact=True).first.wait_for()
    names = [name for name in page.locator("a[href*='/runs/']").all_inner_texts() if " round " in name]
    assert names == [f"{variant} round 1" for variant in reversed(Variant)]

    page.goto("about:blank")
    page.goto(pages["over_rounds"]["b-kto"])
    for round in (0, 1):
        page.get_by_text(f"b-kto round {round}", exact=True).first.wait_for()
    assert not page.get_by_text("b-fft round 1", exact=True).count()
    page.get_by_text("val_exact_match", exact=True).first.wait_for()
    context.close()
