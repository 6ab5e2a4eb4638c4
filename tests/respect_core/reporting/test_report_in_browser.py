"""The report's page as it opens from disk: nothing is fetched, nothing is wider than the window, figures are there."""

from __future__ import annotations

from pathlib import Path

import pytest
from reports import annotations, deployment, round_summary

from respect_core.measuring.evidence import gather
from respect_core.reporting.report import write

playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: make install")
pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]
PHONE, DESKTOP = {"width": 390, "height": 844}, {"width": 1280, "height": 800}
COLOURS = {"light": ["rgb(255, 255, 255)", "rgb(27, 29, 34)"], "dark": ["rgb(21, 23, 28)", "rgb(232, 234, 240)"]}
"""Of page and text."""

# Of every figure: its frame, its image's size, how far the frame scrolls, and the shades of grey that a reader sees.
FIGURES = """() => Promise.all([...document.querySelectorAll("figure")].map(async (figure) => {
  const [frame, image] = [figure.querySelector(".scroll"), figure.querySelector("img")];
  await image.decode();
  const { left, right } = frame.getBoundingClientRect();
  const canvas = new OffscreenCanvas(image.width, image.height).getContext("2d");
  canvas.filter = getComputedStyle(image).filter;
  canvas.drawImage(image, 0, 0, image.width, image.height);
  const pixels = canvas.getImageData(0, 0, image.width, image.height).data;
  const grey = pixels.filter((_, place) => place % 4 == 0);
  const [darkest, lightest] = [Math.min(...new Set(grey)), Math.max(...new Set(grey))];
  const { width, height } = image;
  return { id: figure.id, left, right, width, height, scroll: frame.scrollWidth, corner: grey[0], darkest, lightest };
}))"""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With table 5 and figure 5, games turn by turn, and a name that is one long word."""
    folder = tmp_path_factory.mktemp("report")
    played = deployment(folder / "store")
    annotations(played, 0, "seed", [("g0", 0, "ann", "select D", "no"), ("g0", 1, "ann", "deselect C select D", "yes")])
    annotations(played, 1, "b-fft", [("g1", 0, "ann", "select C", "yes"), ("g1", 1, "ann", "select D", "partial")])
    write(gather(played, "x" * 200), folder / "report", store=played, learned=round_summary(games=12))
    return folder / "report" / "index.html"


@pytest.mark.parametrize("viewport", [PHONE, DESKTOP], ids=["phone", "desktop"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_opens_from_disk_without_network(
    browser: playwright.Browser, report: Path, viewport: playwright.ViewportSize, scheme: str
) -> None:
    context = browser.new_context(viewport=viewport, color_scheme=scheme, offline=True)
    page, asked, complaints = context.new_page(), [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda said: complaints.append(said.text))
    page.goto(report.as_uri(), wait_until="networkidle")
    assert [url for url in asked if not url.startswith("data:")] == [report.as_uri()] and not complaints

    assert page.evaluate("[document.documentElement.scrollWidth, document.body.scrollWidth]") == [viewport["width"]] * 2
    style = page.evaluate("[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]")
    assert style == COLOURS[scheme]
    figures = page.evaluate(FIGURES)
    assert [figure["id"] for figure in figures] == [f"figure-{number}" for number in (4, 14, 5, 6, 7)]
    for figure in figures:
        assert 0 <= figure["left"] < figure["right"] - 200 and figure["right"] <= viewport["width"], figure["id"]
        assert figure["height"] > 100 and figure["width"] > 300, figure["id"]
        assert figure["scroll"] >= figure["width"], figure["id"]  # all of it can be seen
        paper, ink = ((255, 0), (23, 232))[scheme == "dark"]
        assert abs(figure["corner"] - paper) < 3, figure["id"]
        assert abs(figure["darkest" if scheme == "light" else "lightest"] - ink) < 30, figure["id"]

    tiles = page.locator("article .tile")
    assert tiles.count() >= 10 and all(tile.is_visible() for tile in tiles.all()[:10])
    assert "data:image/png" in tiles.first.evaluate("tile => getComputedStyle(tile).backgroundImage")
    context.close()
