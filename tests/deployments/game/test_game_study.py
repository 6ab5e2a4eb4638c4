"""A study over real sockets: the gate before it, assignment, the lobby, caps, stop and start, payments."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx
import pytest
from game_servers import PATIENT, Clock, Player, player, rooms, serving, until
from pilots import participant, study_of

from deployments.game.domain import players
from deployments.game.domain.consent import CONSENT
from deployments.game.domain.links import participant_link
from deployments.game.domain.study import load
from deployments.game.engine import archive
from deployments.game.web import operator

pytestmark = pytest.mark.timeout(600)
KEY = "a-link-key-of-many-characters"
WAIT = 600.0
"""Seconds in the lobby, which pass at once where a wait is to end, and never by themselves."""


async def _over(player: Player, running: Any, *, win: bool) -> None:
    state = await player.state_where(phase="writing")
    targets = running.rooms.tables[state["game"]].context.target_letters
    if win:
        await player.say(f"select {' '.join(targets)}")
    else:
        await player.send(type="leave", game=state["game"])
    await player.state_where(phase="over")
    player.state = {}


def test_every_policy_plays_the_same_contexts_and_broken_off_games_are_given_again(tmp_path: Path) -> None:
    study = study_of(tmp_path / "run", {"b-fft": 1, "control": 1}, games_per_player=3)
    with serving(rooms(tmp_path / "run", study)) as running:

        async def play() -> None:
            leaver = await participant(running.port, 99)
            await leaver.start("study")
            await _over(leaver, running, win=False)
            for number in range(4):
                player = await participant(running.port, number)
                for _ in range(2):
                    await player.start("study")
                    await _over(player, running, win=number > 0)
                me = (await player.http.get("/api/me")).json()
                assert me["games_done"] == 2 and me["games_left"] == 1 and me["policies"] == []
                await player.close()
            await leaver.close()

        asyncio.run(play())
        until(lambda: not running.rooms.archiver.unstored)
        state = running.call(operator.standing(running.rooms))
        by_policy = {each["policy"]: each for each in state["policies"]}
        assert sum(each["done"] for each in by_policy.values()) == 6
        counts = study.assignment.counts().values()
        assert all(max(games.values()) - min(games.values()) <= 1 for games in counts)
        assert sum(each["broken_off"] for each in by_policy.values()) == 3
        assert all(each["success"]["value"] == 1.0 and each["wanted"] == 4 for each in by_policy.values())
        rows = study.payments()
        assert Counter((row["pay"], row["bonus"]) for row in rows) == {(0.81, 0.25): 6, (0.0, 0.0): 3}
        keys = running.rooms.workspace.open().keys("interactions/")
        assert {key.rpartition("/")[0] for key in keys} == {
            "interactions/round=3/variant=b-fft",
            "interactions/round=3/variant=control",
        }


def test_the_gate_and_the_caps(tmp_path: Path) -> None:
    study = study_of(tmp_path / "run", {"b-fft": 1}, games_per_player=1)
    with serving(rooms(tmp_path / "run", study)) as running:

        async def denied(player: Player, **wish: Any) -> int:
            return (await player.http.post("/api/games", json=wish)).status_code

        async def play() -> None:
            player = Player(running.port)
            nameless = await player.http.post("/api/arrive", json={"participant": None, "study": "pilot"})
            assert nameless.status_code == 403 and nameless.json()["field"] == "participant"
            other = await player.http.post("/api/arrive", json={"participant": "p1", "study": "another"})
            assert other.status_code == 404
            assert await denied(player, mode="study") == 401
            await player.arrive(participant="p1", study="pilot")
            assert await denied(player, mode="study") == 403, "before consent and quiz"
            await player.agree()
            assert await denied(player, mode="study") == 403, "before the quiz"
            await player.qualify()
            assert await denied(player, mode="policy", variant="b-fft") == 403, "a policy of one's choice"
            assert await denied(player, mode="people") == 403
            await running_call(operator.set_open(running.rooms, False))
            assert await denied(player, mode="study") == 403, "while it is stopped"
            await running_call(operator.set_open(running.rooms, True))
            await player.connect()
            await player.start("study")
            await _over(player, running, win=True)
            assert await denied(player, mode="study") == 403, "after the last game"
            again = Player(running.port)  # on another device, by the same id
            await again.arrive(participant="p1", study="pilot")
            assert await denied(again, mode="study") == 403
            await again.close()
            await player.close()

        async def running_call(work: Any) -> None:
            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, running.loop))

        asyncio.run(play())


def test_nothing_is_played_without_consent_to_the_text_as_it_is_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Outside a study too; the log says which text it was, also after a restart."""

    async def begin(port: int) -> None:
        async with player(port) as one:
            assert (await one.http.post("/api/games", json={"mode": "policy"})).status_code == 403
            assert (await one.http.post("/api/games", json={"mode": "people"})).status_code == 403
            stale = await one.http.post("/api/consent", json={"agrees": True, "text": "another"})
            assert stale.status_code == 409 and stale.json()["field"] == "text"
            await one.agree()
            monkeypatch.setattr(players, "CONSENT", "changed")
            assert (await one.http.post("/api/games", json={"mode": "policy"})).status_code == 403
            monkeypatch.undo()
            await one.start("policy")
            await one.state_where(phase="writing", turn=0)
            await one.say("the house")
            await one.state_where(phase="writing", turn=1)

    with serving(rooms(tmp_path / "run")) as running:
        asyncio.run(begin(running.port))
    with serving(rooms(tmp_path / "run")) as running:
        (table,) = running.rooms.tables.values()
        table.apply(table.end("left", "speaker"), 0.0)
        log = archive.interaction_log(table, running.rooms.users(table))
    assert log is not None and log.consent == CONSENT
    assert json.loads(archive.record(table, {}))["consent"] == CONSENT


def test_only_signed_participants_come_where_the_study_or_a_key_asks_for_it(tmp_path: Path) -> None:
    """Another browser with the same link is the same participant; this one needs no link again."""
    link = urlsplit(participant_link("http://here", "pilot", "p1", 1, KEY)).fragment
    fields: dict[str, Any] = dict(parse_qsl(link))
    fields["until"] = int(fields["until"])

    async def come(port: int, *arrivals: tuple[int, dict[str, Any]]) -> None:
        for status, given in arrivals:
            player = Player(port)
            answer = await player.http.post("/api/arrive", json=given)
            assert answer.status_code == status, answer.text
            if status == 200:
                back = await player.http.post("/api/arrive", json={"study": "pilot", "participant": "p1"})
                other = await player.http.post("/api/arrive", json={"study": "pilot", "participant": "p2"})
                assert (back.status_code, other.status_code) == (200, 403)
            await player.close()

    invented = {"study": "pilot", "participant": "p1"}
    with serving(rooms(tmp_path / "signed", study_of(tmp_path / "signed", {"b-fft": 1}), link_key=KEY)) as running:
        forged = (403, fields | {"participant": "p2"})
        asyncio.run(come(running.port, (403, invented), (200, fields), (200, fields), forged))
        assert len(running.rooms.players) == 1
    for name, participants, status in (("open", "open", 200), ("signed", "signed", 403)):
        study = study_of(tmp_path / name, {"b-fft": 1}, participants=participants)
        key = KEY if participants == "open" else None
        with serving(rooms(tmp_path / name, study, link_key=key)) as running:
            answer = httpx.post(f"http://127.0.0.1:{running.port}/api/arrive", json=invented)
            assert answer.status_code == status, "a study may say otherwise than the key"


def test_a_full_study_says_so_before_consent_and_quiz(tmp_path: Path) -> None:
    """Also while a place may come free again, and not to who waits in it or could join them."""
    study = study_of(tmp_path / "run", {"b-fft": 1, "hh": 1}, games=1)
    with serving(rooms(tmp_path / "run", study)) as running:

        async def full(number: int) -> bool:
            one = Player(running.port)
            state = await one.arrive(study="pilot", participant=f"p{number}")
            await one.close()
            return bool(state["study"]["full"])

        async def play() -> None:
            assert not await full(7)
            first, second = await participant(running.port, 0), await participant(running.port, 1)
            for each in (first, second):
                await each.start("study")  # one plays with the policy, the other waits
            assert not await full(0) and not await full(1), "who plays or waits has a place"
            assert not await full(7), "beside who waits"
            third = await participant(running.port, 2)
            await third.start("study")
            assert await full(7)
            for each in (first, second, third):
                await each.close()

        asyncio.run(play())


def test_people_meet_in_the_lobby_and_who_waits_in_vain_is_released_and_paid(tmp_path: Path) -> None:
    study, clock = study_of(tmp_path / "run", {"hh": 1}, lobby_seconds=WAIT), Clock()
    with serving(rooms(tmp_path / "run", study, clock, clocks=PATIENT)) as running:

        async def play() -> None:
            first, second, third = [await participant(running.port, number) for number in range(3)]
            assert await first.start("study") == {"lobby": True}
            assert (await first.hear("lobby"))["times_out_in"] > 0
            assert "game" in await second.start("study")
            await first.hear("state")
            await second.hear("state")
            assert {first.state["role"], second.state["role"]} == {"speaker", "listener"}
            assert await third.start("study") == {"lobby": True}
            await third.hear("lobby")
            clock.skip(WAIT)
            assert "the wait counts" in (await third.hear("released"))["reason"]
            assert not (await third.http.get("/api/me")).json()["in_lobby"]
            await first.send(type="leave", game=first.state["game"])
            await second.state_where(phase="over")
            for each in (first, second, third):
                await each.close()

        asyncio.run(play())
        rows = study.payments()
        assert sorted((row["ended"].partition(" ")[0], row["pay"]) for row in rows) == [
            ("left", 0.0),
            ("left", 0.81),
            ("released", 0.81),
        ]
        counts = study.assignment.counts().values()
        assert sum(games["hh"] for games in counts) == 0, "neither game was played to its end"


def test_nobody_is_paid_for_waiting_again_and_again(tmp_path: Path) -> None:
    study, clock = study_of(tmp_path / "run", {"hh": 1}, lobby_seconds=WAIT, waits_per_player=2), Clock()
    with serving(rooms(tmp_path / "run", study, clock)) as running:

        async def play() -> None:
            alone, other = [await participant(running.port, number) for number in range(2)]
            for _ in range(2):
                assert await alone.start("study") == {"lobby": True}
                clock.skip(WAIT)
                await alone.hear("released")
            refused = await alone.http.post("/api/games", json={"mode": "study"})
            assert refused.status_code == 403 and "thank you" in refused.json()["reason"]
            assert await other.start("study") == {"lobby": True}
            assert "game" in await alone.start("study"), "who need not wait may play"
            for each in (alone, other):
                await each.close()

        asyncio.run(play())
        assert [row["ended"] for row in study.payments()] == ["released", "released"]


def test_who_may_wait_no_more_gets_the_policies(tmp_path: Path) -> None:
    policies, clock = {"hh": 1, "b-fft": 1}, Clock()
    study = study_of(tmp_path / "run", policies, seed=6, lobby_seconds=WAIT, waits_per_player=1)
    with serving(rooms(tmp_path / "run", study, clock)) as running:

        async def play() -> None:
            one = await participant(running.port, 0)
            assert await one.start("study") == {"lobby": True}
            clock.skip(WAIT)
            await one.hear("released")
            for _ in study.contexts:  # of this seed, the next draws were to wait again
                assert "game" in await one.start("study")
                await _over(one, running, win=True)
            assert (await one.http.post("/api/games", json={"mode": "study"})).status_code == 403
            await one.close()

        asyncio.run(play())


def test_a_disk_that_is_full_when_waits_end_keeps_what_is_owed_and_the_lobby_open(tmp_path: Path) -> None:
    study, clock = study_of(tmp_path / "run", {"hh": 1}, lobby_seconds=WAIT), Clock()
    game = rooms(tmp_path / "run", study, clock)
    journal = game.journal

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with serving(game) as running:

        async def play() -> None:
            first, second = [await participant(running.port, number) for number in range(2)]
            sync = journal._sync
            await first.start("study")
            journal._sync = full
            clock.skip(WAIT)
            assert "cannot be saved" in (await first.hear("released"))["reason"]
            assert not study.payments(), "nothing is paid that the journal lacks"
            await second.start("study")
            clock.skip(WAIT)
            await second.hear("released")  # the lobby looks on
            assert not (await second.http.get("/api/me")).json()["in_lobby"]
            journal._sync = sync
            await asyncio.to_thread(until, lambda: study.released.total() == 2)
            await first.start("study")
            clock.skip(WAIT)
            assert "the wait counts" in (await first.hear("released"))["reason"]
            for each in (first, second):
                await each.close()

        asyncio.run(play())
    paid = [row["user"] for row in study.payments()]
    assert sorted(Counter(paid).values()) == [1, 2]
    again = study_of(tmp_path / "run", {"hh": 1})
    with serving(rooms(tmp_path / "run", again)):
        assert Counter(row["user"] for row in again.payments()) == Counter(paid)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{", "JSON"),
        ('{"name": "a", "round": 0, "contexts": {"games": 1, "seed": "s"}}', "policies"),
        ('{"name": "a", "round": 0, "policies": {"b-xyz": 1}, "contexts": {"games": 1, "seed": "s"}}', "b-xyz"),
        ('{"name": "a", "round": 0, "policies": {"hh": 0}, "contexts": {"games": 1, "seed": "s"}}', "policies.hh"),
    ],
)
def test_a_wrong_study_file_is_told(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "study.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=complaint) as refused:
        load(path)
    assert str(path) in str(refused.value)
