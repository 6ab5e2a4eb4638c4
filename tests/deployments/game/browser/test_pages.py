"""Every page: names and roles for screen readers, room on a phone, contrast, focus, and the policy of scripts."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from game_servers import Running
from playing import PHONE, begin, heading, url
from playwright.sync_api import Page, expect

from deployments.game.domain.table import Clocks
from deployments.game.web.pages import PAGES

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]

Serve = Callable[..., Running]
People = Callable[..., Page]
Shot = Callable[[Page, str], None]

# In the page: visible controls without a name or too small to touch, pictures without alt, headings that skip a level,
# and text whose contrast with what is behind it is below 4.5 (WCAG 2.2, AA).
AUDIT = """() => {
  const shown = (e) => e.checkVisibility({ visibilityProperty: true }) && !e.closest(".unseen, .skip");
  const all = (selector) => [...document.querySelectorAll(selector)].filter(shown);
  const found = [];
  const about = (e) => e.outerHTML.slice(0, 120);
  for (const e of all("button, input, select, a[href], summary")) {
    const name = e.getAttribute("aria-label") || e.labels?.[0]?.textContent || e.textContent;
    if (!name.trim()) found.push(`no name: ${about(e)}`);
    const box = (e.type === "checkbox" || e.type === "radio" ? e.closest("label") : e).getBoundingClientRect();
    if ((box.height < 24 || box.width < 24) && !e.matches("p a")) found.push(`small: ${about(e)}`);
  }
  for (const e of all("img")) if (!e.hasAttribute("alt")) found.push(`no alt: ${about(e)}`);
  let level = 0;
  for (const e of all("h1, h2, h3")) {
    if (+e.tagName[1] > level + 1) found.push(`heading skips a level: ${about(e)}`);
    level = +e.tagName[1];
  }
  if (document.querySelectorAll("main").length !== 1) found.push("not one main");
  if (all("h1").length !== 1) found.push("not one h1");
  if (document.documentElement.scrollWidth > innerWidth) found.push("wider than the window");
  const channel = (c) => ((c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const behind = (e) => {
    for (; e; e = e.parentElement) {
      const colour = parse(getComputedStyle(e).backgroundColor);
      if (colour.length < 4 || colour[3] > 0.9) return colour;
    }
    return [255, 255, 255];
  };
  for (const e of all("body *")) {
    const own = [...e.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!own || e.disabled) continue;
    const [a, b] = [light(parse(getComputedStyle(e).color)), light(behind(e))].sort((x, y) => y - x);
    if ((a + 0.05) / (b + 0.05) < 4.5) found.push(`contrast ${((a + 0.05) / (b + 0.05)).toFixed(2)}: ${about(e)}`);
  }
  return found;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_are_accessible_on_a_phone(serve: Serve, people: People, shot: Shot, scheme: str) -> None:
    running = serve(clocks=Clocks(writing=300, acting=300), operator_token="o" * 16, annotator_tokens={"a" * 16: "ann"})
    page = people(viewport=PHONE, color_scheme=scheme)
    for path in PAGES:
        response = page.goto(url(running, path))
        assert response and "unsafe" not in response.headers["content-security-policy"]
        page.wait_for_load_state("networkidle")
        assert page.evaluate(AUDIT) == [], path
        shot(page, f"page-{path.strip('/') or 'start'}-{scheme}")
    begin(page, running)
    assert page.evaluate(AUDIT) == []


def test_focus_goes_through_a_page_in_its_order(serve: Serve, people: People) -> None:
    running = serve()
    page = people()
    page.goto(url(running))
    expect(page.get_by_role("button", name="Play now")).to_be_enabled()
    visited = []
    for _ in range(6):
        page.keyboard.press("Tab")
        visited.append(page.evaluate("document.activeElement.id || document.activeElement.textContent.trim()"))
    assert visited == [
        "Skip to the content",
        "MULTIREF",
        "variant",
        "Play now",
        "How it works",
        "Find a partner",
    ]
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_label("Participant id")).to_be_visible()


def test_the_room_that_a_keyboard_leaves_on_a_phone_is_enough(serve: Serve, people: People, shot: Shot) -> None:
    """Pictures and the field to write in are both in view."""
    running = serve(clocks=Clocks(writing=300, acting=300))
    page = people(viewport=PHONE)
    begin(page, running)
    page.set_viewport_size({"width": 360, "height": 370})
    for each in (page.locator("#board"), page.get_by_label("Describe what to select"), page.locator("#seconds")):
        expect(each).to_be_in_viewport(ratio=1)
    shot(page, "keyboard-phone")


def test_motion_is_only_where_it_is_wanted(serve: Serve, people: People) -> None:
    running = serve(clocks=Clocks(writing=300, acting=300))
    for motion, expected in (("no-preference", "0.15s"), ("reduce", "0s")):
        page = people(reduced_motion=motion)
        begin(page, running)
        heading(page, "Your turn: describe")
        durations = page.locator("#board .tile").first.evaluate("e => getComputedStyle(e).transitionDuration")
        assert durations.split(",")[0] == expected
