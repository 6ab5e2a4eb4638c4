"""The smart home: users react to what the assistant does, and only words reach the policy."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from respect_core.acting.listener import Act
from respect_core.interaction import Interaction
from respect_core.log.records import InteractionLog, PolicyIdentity
from respect_core.measuring.judge import judge
from respect_core.measuring.metrics import counts_of_logs
from respect_core.measuring.world import Deployment, play, world
from respect_core.profiles import home
from respect_core.scenario import EXACT_MATCH, scenario
from respect_core.scenarios.chat.home import phrases, users
from respect_core.scenarios.chat.home.scenario import BLANK
from respect_core.scenarios.chat.home.users import Manners, SimulatedUser
from respect_core.scenarios.chat.home.world import SYSTEM
from respect_core.store.directory import DirectoryStore
from respect_core.training_data.curated import D0, VALIDATION

DEPLOYMENT = Deployment(1, "b-fft", PolicyIdentity(name="random", version="0"), 7)


class Guesser:
    """Answers with a random call, and remembers what it saw."""

    def __init__(self) -> None:
        self.seen: list[Interaction] = []

    def act(self, interactions: Sequence[Interaction]) -> list[Act]:
        self.seen += interactions
        acts = []
        for one in interactions:
            rng = random.Random(f"{one.interaction_id}-{len(one.turns)}")
            tool, area = rng.choice(("light_on", "light_off")), rng.choice(phrases.AREAS)
            acts.append(Act(f'{{"tool": "{tool}", "area": "{area}"}}', 0.1, logp=-2.3))
        return acts


def user(seed: int, **manners: float) -> SimulatedUser:
    rng = random.Random(seed)
    return SimulatedUser(phrases.targets(rng, 3), "users", rng, Manners(**manners))  # type: ignore[arg-type]


def plain(forms: Sequence[str]) -> tuple[str, ...]:
    """Return the words of forms before what they are filled with."""
    return tuple(form.partition("{")[0].strip() for form in forms)


def test_a_right_call_is_approved_or_passed_over_and_a_wrong_one_is_not() -> None:
    for seed in range(30):
        speaker = user(seed, silent=0.0, object=1.0, repeat=0.0)
        speaker.speak(None)
        objection = speaker.speak("{}") or ""
        assert objection.startswith(plain(users.OBJECT)) and speaker.reached == 0
        approval = speaker.speak(speaker.targets[0].call) or ""
        assert approval.startswith(users.APPROVE) and speaker.reached == 1


def test_a_user_gives_up_on_a_goal_after_some_tries_and_the_conversation_is_lost() -> None:
    speaker, said = user(0, tries=2), []
    while not speaker.over:
        said.append(speaker.speak("{}" if said else None))
    assert len(said) == 3 * 2 + 1 and speaker.reached == 0
    assert sum((each or "").startswith(plain(users.GIVE_UP)) for each in said) == 3


def test_the_policy_sees_the_system_prompt_and_words_and_never_a_target() -> None:
    guesser = Guesser()
    logs = play(guesser, world("home").interactions(5, "x", DEPLOYMENT), batch=2)
    for one in guesser.seen:
        assert one.turns[0].state == SYSTEM and all(turn.state == "" for turn in one.turns[1:])
        assert one.turns[-1].action is None and one.context == ()
    assert all(turn.logp == -2.3 and turn.probability is None for log in logs for turn in log.turns)
    assert [log.interaction_id for log in logs] == sorted(log.interaction_id for log in logs)


def test_an_outcome_says_what_the_user_wanted_and_whether_they_got_it() -> None:
    logs = play(Guesser(), world("home").interactions(40, "x", DEPLOYMENT))
    for log in logs:
        assert log.outcome is not None and len(log.outcome.targets) == 3
        right = {turn.action for turn in log.turns} & set(log.outcome.targets)
        assert not log.outcome.success or len(right) == 3
        assert judge("home").label(log.turns[0].action, [], log.outcome.targets) == (
            1 if log.turns[0].action in log.outcome.targets else -1
        )
    success, turns, right_turns, acted = map(sum, zip(*counts_of_logs(logs).values(), strict=True))
    assert success == 0 and acted == turns and right_turns < turns / 4


def test_deployments_meet_the_same_users_and_skip_the_same_first_ones() -> None:
    other = Deployment(1, "t-kto", DEPLOYMENT.policy, 8)

    def first_words(deployment: Deployment, **skip: int) -> list[str]:
        return [each.seen().turns[0].utterance for each in world("home").interactions(6, "x", deployment, **skip)]

    assert first_words(DEPLOYMENT) == first_words(other)
    assert first_words(DEPLOYMENT, skip=2)[:4] == first_words(DEPLOYMENT)[2:]


@pytest.mark.parametrize("name", [D0, VALIDATION])
def test_people_understand_each_other_in_game_sets(name: str, tmp_path: object) -> None:
    store, profile = DirectoryStore(tmp_path), home()  # type: ignore[arg-type]
    logs = world("home").game_set(store, profile, name)
    assert len(logs) == (profile.seed_games if name == D0 else profile.validation_games)
    assert all(log.outcome is not None and log.outcome.success and len(log.turns) == 3 for log in logs)
    again = world("home").game_set(store, profile, name)
    assert [log.model_dump() for log in again] == [log.model_dump() for log in logs]
    assert all(InteractionLog.model_validate_json(log.model_dump_json()) == log for log in logs)


def test_no_words_of_the_validation_set_are_in_d0() -> None:
    def said(name: str) -> set[str]:
        logs = world("home").game_set(None, home(), name)  # type: ignore[arg-type]
        return {log.turns[0].utterance for log in logs}

    assert not said(D0) & said(VALIDATION)


def test_a_reply_that_is_no_call_is_illegal_and_a_blank_one_can_be_logged() -> None:
    home_scenario = scenario("home")
    waiting = Interaction("x", (), ())
    assert home_scenario.criterion == EXACT_MATCH
    assert home_scenario.accept('{"tool": "pause", "area": "office"}', waiting).legal
    for text in ("Sure!", '{"area": "office"}', "[1]"):
        assert home_scenario.accept(text, waiting) == (text, False)
    blank = home_scenario.accept(" \n", waiting)
    assert blank == (BLANK, False)
    assert home_scenario.states([], [blank.action]) == ["", ""]
