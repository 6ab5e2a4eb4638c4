"""Speakers: what they intend is legal and leads to the targets, and what they say names no more than words do."""

from __future__ import annotations

import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from respect_core.log.records import from_log, turn_rows
from respect_core.scenarios.multiref import actions, attributes, contexts, dialects, speakers, tangrams
from respect_core.scenarios.multiref.game import Game
from respect_core.scenarios.multiref.speakers import SpeakerFactory


@pytest.fixture(scope="module")
def factory() -> SpeakerFactory:
    return speakers.speaker_factory(speakers.values_of(tangrams.procedural_pool(0).tangrams))


@settings(max_examples=60)
@given(st.integers(0, 10**6), st.floats(0, 1))
def test_intended_actions_are_legal_whatever_the_listener_does(
    factory: SpeakerFactory, seed: int, skill: float
) -> None:
    context = contexts.sample(tangrams.procedural_pool(0).main, 1, seed)[0]
    game, speaker, rng = Game(context), factory(context, seed), random.Random(seed)
    while not game.over:
        saying = speaker.speak(game.state, game.last_action)
        actions.check_legal(saying.intended, game.state)
        assert str(saying.intended) != actions.NOTHING
        game.say(saying.utterance)
        obeys = rng.random() < skill
        game.act(str(saying.intended) if obeys else rng.choice(actions.legal_actions(game.state)))


def test_people_win_and_their_games_repeat(factory: SpeakerFactory) -> None:
    games = contexts.sample(tangrams.procedural_pool(0).development, 40, "d0")
    logs = speakers.human_games(games, factory, seed="d0")
    assert all(log.outcome is not None and log.outcome.success for log in logs)
    assert logs == speakers.human_games(games, factory, seed="d0")
    assert logs != speakers.human_games(games, factory, seed="other")
    assert {log.variant for log in logs} == {"hh"}
    assert 3 < sum(len(log.turns) for log in logs) / len(logs) < 5


def test_only_the_pictures_of_a_game_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attributes of the whole pool take seconds, and each process that plays would wait for them."""
    pool, values, seen = tangrams.procedural_pool(0), attributes.values, set()

    def counted(tangram: tangrams.Tangram) -> attributes.Values:
        seen.add(tangram.id)
        return values(tangram)

    monkeypatch.setattr(attributes, "values", counted)
    games = contexts.sample(pool.development, 1, "one")
    speakers.human_games(games, speakers.speaker_factory(speakers.values_of(pool.tangrams)), seed="one")
    assert seen == set(games[0].images)


def test_utterances_name_no_letter_no_image_and_no_attribute(factory: SpeakerFactory) -> None:
    """Only words leave the speaker: no key to a target is among what the tables and learners see."""
    games = contexts.sample(tangrams.procedural_pool(0).main, 60, 5)
    for log in speakers.human_games(games, factory, seed=5):
        for turn in log.turns:
            assert not re.search(r"tan-\d|\b[B-HJ]\b|:.*:|_", turn.utterance)
        without = log.model_copy(update={"outcome": None})
        assert turn_rows(log) == turn_rows(without)
        assert from_log(log) == from_log(without)


def test_the_same_words_come_whatever_the_targets_order(factory: SpeakerFactory) -> None:
    """Descriptions depend on the described image and those around it, so a speaker has nothing else to give away."""
    context = contexts.sample(tangrams.procedural_pool(0).main, 1, 3)[0]
    speaker = factory(context, 0)
    letter = context.target_letters[0]
    own = attributes.values(tangrams.procedural_pool(0).tangrams[context.images[actions.LETTERS.index(letter)]])
    words = re.findall(r"[\w-]+", speaker._describe(letter))
    dialect = factory.dialect
    meanings: dict[str, list[dialects.Value]] = {}
    for value in dialects.VALUES:
        for word in (*dialect.technical[value], *(word for word, _ in dialect.figurative[value])):
            meanings.setdefault(word, []).append(value)
    assert all(len(values) == 1 for values in meanings.values())
    meant = [value for word in words for value in meanings.get(word, ())]
    assert meant and all(own[name] == value for name, value in meant)


@pytest.mark.parametrize(
    ("state", "last", "expected"),
    [
        ("", None, "select"),  # first description
        ("{wrong}", "select {wrong}", "deselect"),  # a mistake: correct, undo, start over, rarely leave it
        ("{target}", "select {target}", "select"),  # right: go on
    ],
)
def test_reactions(factory: SpeakerFactory, state: str, last: str | None, expected: str) -> None:
    kinds = []
    for seed in range(60):
        context = contexts.sample(tangrams.procedural_pool(0).main, 1, seed)[0]
        names = {
            "target": context.target_letters[0],
            "wrong": next(x for x in actions.LETTERS if x not in context.target_letters),
        }
        speaker = factory(context, seed)
        done = actions.parse(last.format(**names)) if last else None
        kinds.append(str(speaker.speak(state.format(**names), done).intended).split()[0])
    assert kinds.count(expected) > 0.8 * len(kinds)


def test_share_sets_how_figurative_speakers_are() -> None:
    pool = tangrams.procedural_pool(0)
    figurative = {w for by in attributes.LEXICON.values() for v in by.values() for w in v.figurative}
    for share in (0.0, 0.5, 1.0):
        maker = speakers.speaker_factory(speakers.values_of(pool.tangrams), share=share)
        logs = speakers.human_games(contexts.sample(pool.main, 40, 0), maker, seed=0)
        words = [w for log in logs for turn in log.turns for w in re.findall(r"[\w-]+", turn.utterance)]
        said = [w for w in words if attributes.meaning(w)]
        assert sum(w in figurative for w in said) / len(said) == pytest.approx(share, abs=0.08)


def test_users_have_one_reading_of_each_word_and_some_of_their_own() -> None:
    users, world = dialects.users(1.0), dialects.readings()
    read = {word: value for value, words in users.figurative.items() for word, _ in words}
    assert read.keys() == world.keys()
    own = [word for word in read if read[word] != world[word][0]]
    assert 0.25 < len(own) / len(read) < 0.55  # OWN_SHARE of 87 words, give or take three standard errors
    assert all(read[word] not in world[word] for word in own)
    assert all(read[word] == world[word][0] for word in read if word not in own)


def test_speakers_insist_on_the_image_they_described(factory: SpeakerFactory) -> None:
    insisted = 0
    for seed in range(100):
        context = contexts.sample(tangrams.procedural_pool(0).main, 1, seed)[0]
        speaker = factory(context, seed)
        described = speaker.speak("", None).intended.select
        other = next(letter for letter in context.target_letters if letter not in described)
        saying = speaker.speak(other, actions.Action(select=other))
        insisted += saying.intended.select in described and any(
            form.partition("{}")[0] and saying.utterance.startswith(form.partition("{}")[0]) for form in dialects.INSIST
        )
    assert 0.5 < insisted / 100 < 0.9  # Manners.insist
