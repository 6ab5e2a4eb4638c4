"""Every metric on the 200 real games equals plain loops over the fields of their file.

The loops know images, not letters: they read `context_listener`, `clicks`, `targets`, `chat`, `end` and `speaker` as
they stand in the file, and none of our tables. Nobody annotated these games, so an annotator is made up for both sides:
what was to be done is to take off all wrong images and add one missing target, the first in the listener's order; and
a speaker is satisfied or not by whether the turn's clicks were right.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from respect_core.log.records import InteractionLog, outcome_row, turn_rows
from respect_core.measuring.comparison import paired
from respect_core.measuring.decoder_metrics import calibration, confusion
from respect_core.measuring.drift import Corpus, feedback_shares, label_counts, language_drift
from respect_core.measuring.judge import judge
from respect_core.measuring.language import language
from respect_core.measuring.metrics import counts, figures
from respect_core.measuring.turn_metrics import AnnotatedTurn, agreement, turn_figures
from respect_core.measuring.users import user_shares
from respect_core.scenarios.multiref import actions
from respect_core.scenarios.multiref.actions import Action
from respect_core.scenarios.multiref.importers import plain_pickle
from respect_core.scenarios.multiref.importers.games import read_games


@dataclass
class Click:
    """One turn as the file has it: what changed, and what was there."""

    game: str
    selected: set[str]
    deselected: set[str]
    before: set[str]
    targets: set[str]
    context: list[str]
    utterance: str
    follow_up: str | None

    @property
    def label(self) -> int:
        parts = [self.selected <= self.targets] if self.selected else []
        parts += [not self.deselected & self.targets] if self.deselected else []
        return (1 if all(parts) else 0) if any(parts) else -1

    def wanted(self) -> tuple[set[str], set[str]]:
        missing = [image for image in self.context if image in self.targets - self.before]
        return set(missing[:1]), self.before - self.targets


@pytest.fixture(scope="module")
def file(shared: Path) -> Path:
    path = shared / "data/respect_sep12/games.pkl"
    if not path.is_file():
        pytest.skip(f"{path} is absent")
    return path


@pytest.fixture(scope="module")
def raw(file: Path) -> dict[str, dict[str, Any]]:
    loaded = plain_pickle.load(file)
    assert isinstance(loaded, dict)
    return loaded


@pytest.fixture(scope="module")
def logs(file: Path) -> list[InteractionLog]:
    return [log for log in read_games(file, round=5, variant="b-fft+") if isinstance(log, InteractionLog)]


@pytest.fixture(scope="module")
def clicks(raw: dict[str, dict[str, Any]]) -> list[Click]:
    found = []
    for game in raw.values():
        before: set[str] = set()
        for number, after in enumerate(game["clicks"]):
            follow_up = game["chat"][number + 1] if number + 1 < len(game["chat"]) else None
            selected, deselected = set(after) - before, before - set(after)
            where = game["_id"], selected, deselected, before, set(game["targets"]), list(game["context_listener"])
            found.append(Click(*where, game["chat"][number], follow_up))
            before = set(after)
    return found


def annotated(logs: list[InteractionLog]) -> list[AnnotatedTurn]:
    """The same made-up annotator on our side, in letters."""
    rows = []
    for log in logs:
        assert log.outcome is not None
        letters = dict(zip(log.context, actions.LETTERS, strict=False))
        targets = {letters[image] for image in log.outcome.targets}
        for number, (turn, state) in enumerate(zip(log.turns, log.states(), strict=False)):
            missing = sorted(targets - set(state))[:1]
            intended = str(Action(deselect="".join(sorted(set(state) - targets)), select="".join(missing)))
            label = judge(log.scenario).label(turn.action, log.context, log.outcome.targets)
            said = {1: "yes", 0: "partial", -1: "no"}[label] if number + 1 < len(log.turns) else None
            where = log.interaction_id, number, log.scenario, tuple(log.context), state, turn.action
            rows.append(AnnotatedTurn(*where, intended, said, "w1"))
    return rows


def looks(a: str, b: str) -> float:
    """A made-up similarity of images that tells all of them apart and is not symmetric."""
    a, b = a.removesuffix(".png"), b.removesuffix(".png")
    return 1.0 if a == b else math.cos(sum(map(ord, a)) + 2 * sum(map(ord, b)))


def sim(click: Click) -> float:
    """Equation 3 on sets of images."""
    total = pairs = 0.0
    for done, due in zip((click.selected, click.deselected), click.wanted(), strict=True):
        if done and due:
            for p in done:
                for q in due:
                    total += looks(p, q)
                    pairs += 1
        elif done or due:
            total -= max(len(done), len(due))
            pairs += max(len(done), len(due))
    return total / pairs if pairs else 1.0


def test_success_turns_and_click_accuracy(raw: dict[str, dict[str, Any]], logs: list[InteractionLog]) -> None:
    won = turns = right = made = 0
    for game in raw.values():
        won += game["end"] == "successful"
        turns += len(game["chat"])
        before: set[str] = set()
        for after in game["clicks"]:
            for image in set(after) ^ before:
                made += 1
                right += (image in after) == (image in game["targets"])
            before = set(after)
    rows = [row for log in logs for row in turn_rows(log)]
    found = figures([counts(rows, [outcome_row(log) for log in logs])])
    assert (len(raw), won) == (200, 167)
    assert found.games == 200
    assert found.success.value == won / 200 == 0.835
    assert found.turns_per_game.value == turns / 200
    assert found.click_accuracy is not None
    assert found.click_accuracy.value == right / made
    half = 1.96 * (0.835 * 0.165 / 200) ** 0.5
    assert found.success.low == pytest.approx(0.835 - half, abs=0.006)
    assert found.success.high == pytest.approx(0.835 + half, abs=0.006)


def test_exact_match_similarity_and_positive_feedback(clicks: list[Click], logs: list[InteractionLog]) -> None:
    exact = [(click.selected, click.deselected) == click.wanted() for click in clicks]
    alike = [sim(click) for click in clicks]
    judged = [click for click in clicks if click.follow_up is not None]
    negative = [sim(click) for click in judged if click.label == -1]
    found = turn_figures(annotated(logs), looks, resamples=200)
    assert found.turns == len(clicks)
    assert found.exact_match is not None and found.exact_match.value == sum(exact) / len(clicks)
    assert found.similarity is not None
    assert found.similarity.value == pytest.approx(sum(alike) / len(clicks), abs=1e-12)
    assert found.similarity_negative is not None
    assert found.similarity_negative.value == pytest.approx(sum(negative) / len(negative), abs=1e-12)
    assert found.positive_feedback is not None
    assert found.positive_feedback.value == sum(click.label == 1 for click in judged) / len(judged)


def test_agreement_of_three_made_up_annotators(clicks: list[Click], logs: list[InteractionLog]) -> None:
    """The second always says what was done; the third is the second in every turn but the first of a game."""
    rows = annotated(logs)
    for row in annotated(logs):
        mine = row.action, "yes" if row.satisfaction else None
        other = mine if row.turn else (row.intended, row.satisfaction)
        rows += [
            replace(row, intended=said[0], satisfaction=said[1], annotator=name)
            for name, said in (("w2", mine), ("w3", other))
        ]
    same = [(click.selected, click.deselected) == click.wanted() for click in clicks]
    asked = [click.label == 1 for click in clicks if click.follow_up is not None]
    found = agreement(rows, resamples=200)
    assert found.correctness is not None and found.action is not None and found.satisfaction is not None
    assert found.turns == len(clicks)
    assert found.correctness.value == found.action.value == sum(same) / len(same)
    assert found.satisfaction.value == sum(asked) / len(asked)


def test_the_decoders_confusion_and_calibration(clicks: list[Click], logs: list[InteractionLog]) -> None:
    """Of a made-up decoder: a `no` in the follow-up is negative, a question mark neutral; longer ones score less."""

    def decode(follow_up: str) -> int:
        return -1 if re.search(r"\bno", follow_up.lower()) else 0 if "?" in follow_up else 1

    cells: Counter[tuple[int, int]] = Counter()
    errors, bins = 0.0, [[0, 0.0, 0] for _ in range(10)]
    for click in clicks:
        if click.follow_up is not None:
            cells[click.label, decode(click.follow_up)] += 1
            probability = 1 / (1 + math.exp(-(3 - len(click.follow_up) / 10)))
            errors += (probability - (click.label == 1)) ** 2
            each = bins[min(int(10 * probability), 9)]
            each[0], each[1], each[2] = each[0] + 1, each[1] + probability, each[2] + (click.label == 1)
    turns = sum(cells.values())

    actual, said, games = [], [], []
    for log in logs:
        assert log.outcome is not None
        for row in turn_rows(log)[:-1]:
            actual.append(judge(log.scenario).label(row["action"], log.context, log.outcome.targets))
            said.append(row["follow_up"])
            games.append(log.interaction_id)
    found = confusion(actual, [decode(each) for each in said], "ternary", games, resamples=200)
    assert found.turns == turns == 1109
    for row, a in enumerate((-1, 0, 1)):
        for column, p in enumerate((-1, 0, 1)):
            assert found.matrix[row][column] == pytest.approx(cells[a, p] / turns, abs=1e-12)
    called, hits = sum(cells[a, 1] for a in (-1, 0, 1)), cells[1, 1]
    assert found.precision_strict is not None and found.precision_strict.value == hits / called
    assert found.recall_strict is not None
    assert found.recall_strict.value == hits / sum(cells[1, p] for p in (-1, 0, 1))
    assert found.precision_lenient is not None
    assert found.precision_lenient.value == (hits + cells[0, 1]) / called
    assert found.accuracy.value == sum(cells[a, a] for a in (-1, 0, 1)) / turns

    calibrated = calibration([3 - len(each) / 10 for each in said], actual, games, resamples=200)
    assert calibrated.brier.value == pytest.approx(errors / turns, abs=1e-12)
    assert calibrated.ece.value == pytest.approx(sum(abs(a - b) for _, a, b in bins) / turns, abs=1e-12)
    assert [each.turns for each in calibrated.bins] == [count for count, _, _ in bins if count]


CONTRACTIONS = re.compile(r"(?:n't|'(?:s|m|d|ll|re|ve))(?=\s|$)")
JOINED = {"cannot": "can not", "gonna": "gon na", "gotta": "got ta", "wanna": "wan na", "lemme": "lem me"}


def words(utterance: str) -> list[str]:
    """The alphanumeric words of NLTK's rules, written anew for what these games hold."""
    text = utterance.lower()
    text = re.sub(r"\.\.+", " ", text)
    text = re.sub(r"(?:(?<=\s)|^)(?:\d+|[a-z])\.(?=\s+\S)", " ", text)  # `3. first`: an ordinal, or an initial
    text = re.sub(r"\.(?=[\"')\]]*(?:\s|$))", " ", text)  # the end of a sentence
    text = re.sub(r"[;@#$%&?!()\[\]{}<>\"*]|--", " ", text)
    text = re.sub(r"[,:](?!\d)", " ", text)
    text = CONTRACTIONS.sub(" ", text)
    text = re.sub(r"(?:^|(?<=\s))'+|'+(?=\s|$)", " ", text)
    return [word for each in text.split() for word in JOINED.get(each, each).split() if word.isalnum()]


def test_language(raw: dict[str, dict[str, Any]], logs: list[InteractionLog]) -> None:
    said = [utterance for game in raw.values() for utterance in game["chat"]]
    every = [word for utterance in said for word in words(utterance)]
    resets = agains = 0
    for utterance in said:
        for phrase in ("try again", "try one more time", "the other one"):
            agains += len(re.findall(re.escape(phrase), utterance.lower()))
        for phrase in ("reset", "restart", "from scratch", "all over", "start over"):
            resets += len(re.findall(re.escape(phrase), utterance.lower()))
        for verb in ("deselect", "remove", "clear", "unselect", "drop"):
            resets += len(re.findall(f"{verb} (?:everything|all)", utterance.lower()))
    found = language([[turn.utterance for turn in log.turns] for log in logs], resamples=200)
    assert found.utterances == len(said) == 1309
    assert found.vocabulary == len(set(every))
    assert found.utterance_length.value == len(every) / len(said)
    assert (found.resets, found.try_agains) == (resets, agains)


def test_users_feedback_drift_and_pairs(raw: dict[str, dict[str, Any]], logs: list[InteractionLog]) -> None:
    """Drift between the two halves of the file, and the second hundred games paired with the first."""
    spoken: Counter[str] = Counter()
    for game in raw.values():
        spoken[game["speaker"]] += len(game["chat"])
    shares = sorted((turns / sum(spoken.values()) for turns in spoken.values()), reverse=True)
    ours: Counter[str] = Counter()
    for log in logs:
        ours[log.user] += len(log.turns)
    found = user_shares(ours)
    assert (found.users, found.top[1]) == (len(spoken), pytest.approx(shares[0]))
    assert found.top[5] == pytest.approx(sum(shares[:5]))
    assert found.effective == pytest.approx(1 / sum(share**2 for share in shares))

    games = list(raw.values())
    first, second = (
        Counter(word for game in half for utterance in game["chat"] for word in words(utterance))
        for half in (games[:100], games[100:])
    )
    n, m, divergence = sum(first.values()), sum(second.values()), 0.0
    for word in first.keys() | second.keys():
        p, q = first[word] / n, second[word] / m
        divergence += sum(share / 2 * math.log2(share / ((p + q) / 2)) for share in (p, q) if share)
    utterances = [[turn.utterance for turn in log.turns] for log in logs]
    corpora = {0: Corpus(utterances[:100]), 1: Corpus(utterances[100:])}
    drift = language_drift(corpora, resamples=200, permutations=20)[0]
    assert drift.divergence == pytest.approx(divergence, abs=1e-12)
    assert drift.unseen == pytest.approx(sum(second[word] for word in second if word not in first) / m)
    lengths = [sum(len(game["chat"]) for game in half) for half in (games[:100], games[100:])]
    assert drift.length.value == pytest.approx(m / lengths[1] - n / lengths[0])

    labels = [[1 if "yes" in utterance else -1 for utterance in game["chat"]] for game in games]
    yes = sum("yes" in utterance for game in games for utterance in game["chat"])
    assert feedback_shares(label_counts(labels), resamples=200).positive.value == yes / 1309

    ends = [game["end"] == "successful" for game in games]
    rows = {log.interaction_id: (log.outcome is not None and log.outcome.success, len(log.turns)) for log in logs}
    table = np.array([[*rows[game["_id"]], 0, 1] for game in games], dtype=np.int64)
    pairs = paired(table[100:], table[:100], resamples=200)
    assert pairs.success.value == pytest.approx((sum(ends[100:]) - sum(ends[:100])) / 100)
    assert pairs.turns_per_game.value == pytest.approx((lengths[1] - lengths[0]) / 100)
    assert pairs.wins == sum(b and not a for a, b in zip(ends[:100], ends[100:], strict=True))
