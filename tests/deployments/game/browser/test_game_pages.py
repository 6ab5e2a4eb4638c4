"""The game in real browsers: with a policy, between people, through lost connections, reloads and second tabs."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from game_servers import Running, until
from playing import PHONE, begin, consent, heading, labels, line, meet, roles, say, table, url
from playwright.sync_api import Page, expect

from deployments.game.domain.table import Clocks
from respect_core.log.log import LOGS, read_logs
from respect_core.scenarios.multiref.actions import LETTERS

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]

Serve = Callable[..., Running]
People = Callable[..., Page]
Shot = Callable[[Page, str], None]
SLOW = Clocks(writing=300, acting=300)
"""For tests that are not about clocks, on a busy machine."""


def test_a_game_with_a_policy_by_keyboard(serve: Serve, people: People, shot: Shot) -> None:
    """Targets are framed, selections marked right or wrong, the history says what was done, and the end is told."""
    running = serve(clocks=SLOW)
    page = people()
    begin(page, running)
    context = table(running).context
    seen = labels(page)
    assert [", target" in label for label in seen] == [image in context.targets for image in context.speaker_order]
    assert page.locator("#board .tile.target").count() == len(context.targets)
    expect(page.get_by_label("Describe what to select")).to_be_focused()
    right = context.target_letters[0]
    wrong = next(letter for letter in LETTERS if letter not in context.target_letters)

    page.keyboard.type(f"select {right} {wrong}")
    page.keyboard.press("Enter")
    expect(page.locator("#history .did .tile")).to_have_count(2)
    place = {letter: context.speaker_order.index(context.images[LETTERS.index(letter)]) for letter in (right, wrong)}
    assert labels(page)[place[right]] == f"image {place[right] + 1}, target, selected, right"
    assert labels(page)[place[wrong]] == f"image {place[wrong] + 1}, selected, wrong"
    expect(page.locator("#board .right .badge")).to_have_text("✓")  # not by colour alone
    expect(page.locator("#board .wrong .badge")).to_have_text("✗")
    expect(page.locator("#spoken")).to_contain_text(f"image {place[wrong] + 1} (not a target)")
    shot(page, "speaker-light")
    page.emulate_media(color_scheme="dark")
    shot(page, "speaker-dark")
    page.set_viewport_size(PHONE)
    shot(page, "speaker-dark-phone")

    expect(page.get_by_label("Describe what to select")).to_be_focused()
    page.keyboard.type(f"deselect {wrong} select {' '.join(context.target_letters[1:])}")
    page.keyboard.press("Enter")
    heading(page, "You won!")
    expect(page.locator("#over-title")).to_be_focused()
    shot(page, "won-dark-phone")
    page.reload()
    expect(page.locator("#over-title")).to_have_text("You won!")
    page.get_by_role("button", name="Next game").click()
    heading(page, "Your turn: describe")
    assert table(running).context != context
    until(lambda: not running.rooms.archiver.unstored)
    store = running.rooms.workspace.open()
    (log,) = [log for key in store.keys(f"{LOGS}/") for log in read_logs(store, key)]
    assert log.outcome and log.outcome.success and log.turns[0].utterance == f"select {right} {wrong}"


def test_two_people_play_to_the_end_and_one_loses_the_connection(serve: Serve, people: People, shot: Shot) -> None:
    """Who comes back finds the game as it is; the other is told; nothing of the targets reaches the listener."""
    running = serve(clocks=SLOW)
    one, other = (people(viewport=PHONE, has_touch=True, color_scheme="dark") for _ in range(2))
    heard: dict[Page, list[str]] = {one: [], other: []}
    for page, frames in heard.items():
        page.on("websocket", lambda ws, frames=frames: ws.on("framereceived", lambda data: frames.append(str(data))))
    with line(running.port) as first, line(running.port) as second:
        lines = {one: first, other: second}
        for page in (one, other):
            page.goto(f"http://127.0.0.1:{lines[page].port}/")
            page.get_by_role("button", name="Find a partner").click()
            consent(page)
            page.wait_for_url("**/play")
            if page is one:
                heading(page, "Waiting for another player")
                shot(page, "lobby")
        speaker, listener = roles(one, other)
        context = table(running).context
        targets = context.target_letters
        say(speaker, "<b onclick=alert(1)>the first</b> & <img src=x onerror=alert(1)>")
        expect(listener.locator("#history .said")).to_have_text(
            "Speaker: <b onclick=alert(1)>the first</b> & <img src=x onerror=alert(1)>"
        )
        assert listener.locator("#history img[src=x], #history b[onclick]").count() == 0

        heading(listener, "Your turn: select")
        tile = listener.locator("#board button.tile")
        expect(tile.first).to_be_focused()
        listener.keyboard.press(targets[0].lower())  # a letter clicks the picture that bears it
        shot(listener, "listener-planned-phone")
        expect(tile.nth(LETTERS.index(targets[0]))).to_have_attribute("aria-pressed", "true")
        lines[listener].cut()
        heading(speaker, "Your partner is selecting")
        expect(speaker.get_by_text("Your partner has lost the connection")).to_be_visible()
        expect(listener.get_by_text("The connection is lost")).to_be_visible()
        listener.get_by_role("button", name=f"Select {targets[0]}", exact=True).click()
        expect(listener.locator("#planned")).to_have_text("Sending …")
        shot(listener, "lost-phone")
        lines[listener].mend()
        expect(listener.locator("#history .did .tile")).to_have_count(1)  # what was clicked while away is done
        expect(listener.get_by_text("The connection is lost")).to_be_hidden()
        expect(speaker.locator("#history .did .tile.right")).to_have_count(1)
        expect(speaker.get_by_text("Your partner has lost the connection")).to_be_hidden()

        lines[speaker].cut()
        expect(speaker.get_by_text("The connection is lost")).to_be_visible()
        say(speaker, "and the others")
        expect(speaker.locator("#history .sending")).to_contain_text("Sending")  # not shown as said before it is
        lines[speaker].mend()
        expect(listener.locator("#history .said").nth(1)).to_have_text("Speaker: and the others")
        expect(speaker.locator("#history .sending")).to_have_count(0)
        heading(listener, "Your turn: select")
        for letter in targets[1:]:
            tile.nth(LETTERS.index(letter)).click()
        shot(listener, "listener-phone")
        listener.get_by_role("button", name=re.compile("^Select ")).click()
        for page in (speaker, listener):
            heading(page, "You won!")
        assert [turn.utterance for turn in table(running).game.turns[1:]] == ["and the others"]
        assert not [frame for frame in heard[listener] if re.search("target|mark|right|wrong", frame)]
        assert "target" not in listener.content().replace("see the targets", "").replace("All targets", "")


def test_words_that_are_not_sent_survive_a_reload_and_another_tab_takes_the_seat(serve: Serve, people: People) -> None:
    running = serve(clocks=SLOW)
    page = people()
    begin(page, running)
    page.get_by_label("Describe what to select").fill("half a sen")
    page.reload()
    expect(page.get_by_label("Describe what to select")).to_have_value("half a sen")

    tab = page.context.new_page()
    tab.goto(url(running, "/play"))
    heading(tab, "Your turn: describe")
    heading(page, "This game is open in another tab or on another device")
    say(tab, "select A")
    expect(tab.locator("#history .did")).to_have_count(1)
    page.get_by_role("button", name="Play here").click()
    expect(page.locator("#history .did")).to_have_count(1)
    heading(tab, "This game is open in another tab or on another device")


def test_who_idled_is_said_to_both(serve: Serve, people: People, shot: Shot) -> None:
    running = serve(clocks=Clocks(writing=300, acting=3, grace=0.1))
    one, other = people(), people()
    meet(one, running)
    meet(other, running)
    speaker, listener = roles(one, other)
    say(speaker, "the boat")
    heading(listener, "Your time ran out")
    heading(speaker, "Your partner's time ran out")
    expect(speaker.locator("#over")).to_contain_text("not your fault")
    shot(speaker, "idle")


def test_leaving_ends_the_game_for_both(serve: Serve, people: People) -> None:
    running = serve(clocks=SLOW)
    one, other = people(), people()
    meet(one, running)
    meet(other, running)
    one.locator("#board .tile").first.wait_for()
    one.once("dialog", lambda dialog: dialog.accept())
    one.get_by_role("button", name="End game").click()
    heading(one, "You ended the game")
    heading(other, "Your partner left")
