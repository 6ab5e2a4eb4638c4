"""Annotators answer sampled games in two phases, and the answers are in the annotations table."""

from __future__ import annotations

import json
from collections.abc import Callable

import pyarrow as pa
import pytest
from game_servers import Running
from playing import heading, url
from playwright.sync_api import Page, Response, expect

from deployments.game.domain.contexts import ContextRecipe, of_study
from respect_core.log.pseudonyms import pseudonym
from respect_core.log.records import InteractionLog, LoggedTurn, Outcome, PolicyIdentity, outcome_row, turn_rows
from respect_core.measuring import annotation_tasks, human_eval
from respect_core.measuring.evidence import gather
from respect_core.scenarios.multiref import actions
from respect_core.schemas import OUTCOMES_SCHEMA, TURNS_SCHEMA
from respect_core.store.base import Store
from respect_core.store.tables import read_table, write_partition

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]

ANN, BOB, EVE = "ann-has-a-long-token", "bob-has-a-long-token", "eve-has-a-long-token"
TOKENS = {ANN: "ann", BOB: "bob", EVE: "eve"}
SAID = ["the bird that looks left", "no, undo that one, I mean the boat", "good"]
DONE = ["select A", "deselect A select C", "nothing"]
Serve = Callable[..., Running]
People = Callable[..., Page]
Shot = Callable[[Page, str], None]


def _tasks(store: Store, games: int) -> None:
    """Games of round 0 in the turns table, sampled."""
    (context,) = of_study(store, ContextRecipe(games=1, seed="annotated"))
    logs = [
        InteractionLog(
            interaction_id=f"b-fft-r0-{number}",
            round=0,
            variant="b-fft",
            policy=PolicyIdentity(name="respect.b-fft", version="1"),
            user="0" * 16,
            started_at="2026-01-01T00:00:00",
            context=list(context.images),
            turns=[LoggedTurn(utterance=said, action=done) for said, done in zip(SAID, DONE, strict=True)],
            outcome=Outcome(targets=list(context.targets), success=False),
        )
        for number in range(games)
    ]
    rows = pa.Table.from_pylist([row for log in logs for row in turn_rows(log)], TURNS_SCHEMA)
    write_partition(store, "turns", 0, "b-fft", rows)
    outcomes = pa.Table.from_pylist([outcome_row(log) for log in logs], OUTCOMES_SCHEMA)
    write_partition(store, "outcomes", 0, "b-fft", outcomes)
    annotation_tasks.put_tasks(store, annotation_tasks.sample(store, 0, "b-fft"))


def _sign_in(page: Page, running: Running, token: str) -> None:
    page.goto(url(running, "/annotate"))
    page.get_by_label("Annotator's token").fill(token)
    page.get_by_role("button", name="Sign in").click()


def _click(page: Page, letters: str) -> None:
    for letter in letters:
        page.locator("#board button.tile").nth(actions.LETTERS.index(letter)).click()


def test_a_game_is_annotated_turn_by_turn(serve: Serve, people: People, shot: Shot) -> None:
    """Nothing of phase 2 reaches the page in phase 1; a break between the phases changes nothing; no target ever."""
    running = serve(annotator_tokens=TOKENS)
    store = running.rooms.workspace.open()
    _tasks(store, 1)
    page = people()
    replies: list[dict] = []

    def keep(response: Response) -> None:
        if "/api/annotate/" in response.url and response.status == 200 and "login" not in response.url:
            replies.append(response.json())

    page.on("response", keep)
    _sign_in(page, running, ANN)
    heading(page, "What does the speaker ask for?")
    expect(page.locator("#speech")).to_have_text(SAID[0])
    _click(page, "A")
    shot(page, "annotation-intended")
    page.get_by_role("button", name="Select A", exact=True).click()
    heading(page, "Is the speaker satisfied?")
    expect(page.locator("#reveal")).to_have_text("The listener selected A. You would have done the same.")
    expect(page.locator("#follow-up")).to_have_text(SAID[1])
    shot(page, "annotation-satisfaction")
    page.reload()  # a break
    heading(page, "Is the speaker satisfied?")
    page.get_by_label("No", exact=True).check()
    page.get_by_role("button", name="Next turn").click()

    heading(page, "What does the speaker ask for?")
    expect(page.get_by_text("Turn 2 of 3")).to_be_visible()
    _click(page, "AB")
    page.get_by_role("button", name="Deselect A, select B").or_(page.get_by_role("button", name="Select B")).click()
    expect(page.locator("#reveal")).to_contain_text("The listener deselected A and selected C. You would have")
    page.get_by_label("Yes, even though the listener selected or deselected something wrong").check()
    page.get_by_role("button", name="Next turn").click()
    heading(page, "What does the speaker ask for?")
    page.get_by_role("button", name="Change nothing").click()
    heading(page, "Nothing is left to annotate")

    for reply in replies:
        task = reply["task"]
        assert task is None or (task["phase"] == "intended") == (task["action"] is None)
        assert task is None or task["phase"] == "satisfaction" or task["follow_up"] is None
        assert "target" not in json.dumps(reply)
    rows = read_table(store, "annotations").sort_by("turn").to_pylist()
    assert [(row["intended"], row["satisfaction"], row["correct"]) for row in rows] == [
        ("select A", "no", True),
        ("deselect A select B", "incorrect", False),
        ("nothing", None, True),
    ]
    assert {row["annotator"] for row in rows} == {pseudonym("ann")} and {row["source"] for row in rows} == {"page"}
    figures = gather(store, "annotated").cells["b-fft"][0].turn_figures  # table 5 of a report
    assert figures is not None and figures.exact_match.value == pytest.approx(2 / 3)


def test_games_are_shared_out_and_some_go_to_three(serve: Serve, people: People) -> None:
    """Two annotators at once are given different games, except where three are wanted."""
    running = serve(annotator_tokens=TOKENS)
    store = running.rooms.workspace.open()
    _tasks(store, 20)
    tasks = annotation_tasks.read_tasks(store)
    assert sorted(task.annotators for task in tasks) == [1] * 19 + [3]
    seen = {}
    for token in TOKENS:
        page = people()
        page.request.post(url(running, "/api/annotate/login"), data={"token": token})
        games = []
        while len(games) < 3 * 3:  # turns
            task = page.request.get(url(running, "/api/annotate/next")).json()["task"]
            games.append(task["interaction"])
            answer = {"interaction": task["interaction"], "turn": task["turn"]}
            page.request.post(url(running, "/api/annotate/answer"), data=answer | {"intended": DONE[task["turn"]]})
            if task["turn"] < 2:
                page.request.post(url(running, "/api/annotate/answer"), data=answer | {"satisfaction": "yes"})
        seen[token] = list(dict.fromkeys(games))
    shared = set.intersection(*map(set, seen.values()))
    assert shared == {next(task.interaction_id for task in tasks if task.annotators == 3)}
    assert sum(len(games) for games in seen.values()) == 9
    assert len(set().union(*seen.values())) == 7
    assert len(human_eval.answered_turns(store)) == 27


def test_an_answer_that_cannot_be_is_refused(serve: Serve, people: People) -> None:
    running = serve(annotator_tokens=TOKENS)
    _tasks(running.rooms.workspace.open(), 1)
    request = people().request
    assert request.get(url(running, "/api/annotate/next")).status == 401
    assert request.post(url(running, "/api/annotate/login"), data={"token": "no such token, long"}).status == 401
    request.post(url(running, "/api/annotate/login"), data={"token": ANN})
    at = {"interaction": "b-fft-r0-0", "turn": 0}
    for given, status in (
        (at | {"intended": "deselect A"}, 422),
        (at | {"intended": "sing"}, 422),
        (at | {"satisfaction": "yes"}, 422),
        (at | {"satisfaction": "perhaps"}, 422),
        ({"interaction": "b-fft-r0-0", "turn": 1, "intended": "select A"}, 409),
        ({"interaction": "elsewhere", "turn": 0, "intended": "select A"}, 409),
    ):
        assert request.post(url(running, "/api/annotate/answer"), data=given).status == status
