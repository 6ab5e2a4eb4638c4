"""The estimates from reviewed follow-ups, on made-up logs whose every true label is known."""

from __future__ import annotations

import numpy as np
import pytest

from respect_core.interaction import TurnKey
from respect_core.measuring.annotation_tasks import Asked
from respect_core.measuring.decoder_metrics import LabelFigures, by_label
from respect_core.measuring.review.estimates import weights

TURNS, QUEUE, AUDIT, USERS = 3000, 150, 200, 300


class Population:
    """Users differ in how much they complain; a decoder errs more, the smaller its margin."""

    def __init__(self) -> None:
        rng = np.random.default_rng(5)
        user_T = rng.integers(USERS, size=TURNS)
        self.user_T = [f"user-{user}" for user in user_T]
        self.true_T = np.where(rng.random(TURNS) < rng.beta(2, 5, USERS)[user_T], -1, 1)
        margin_T = rng.exponential(1.0, TURNS)
        wrong_T = rng.random(TURNS) < 0.45 * np.exp(-1.2 * margin_T)
        self.said_T = np.where(wrong_T, -self.true_T, self.true_T)
        self.rank = {int(turn): rank for rank, turn in enumerate(np.argsort(margin_T)[:QUEUE])}

    def figures(self) -> dict[int, LabelFigures]:
        return by_label(self.true_T.tolist(), self.said_T.tolist(), self.user_T)

    def asked(self, rng: np.random.Generator) -> dict[TurnKey, Asked]:
        """As the queue keeps them, in the order of labelling."""
        audit = [int(turn) for turn in rng.choice(TURNS, AUDIT, replace=False)]
        queue = [turn for turn in self.rank if turn not in audit]
        place = {turn: (at + 0.5) / len(each) for each in (queue, audit) for at, turn in enumerate(each)}
        return {
            ("game", turn): Asked(
                chance=1.0 if turn in self.rank else AUDIT / TURNS,
                audit=turn in audit,
                rank=self.rank.get(turn),
                of=TURNS,
            )
            for turn in sorted(place, key=place.__getitem__)
        }

    def estimate(self, weight: dict[TurnKey, float]) -> dict[int, LabelFigures]:
        turns = [turn for _, turn in weight]
        actual, said = (each[turns].tolist() for each in (self.true_T, self.said_T))
        return by_label(actual, said, [self.user_T[turn] for turn in turns], list(weight.values()))


@pytest.mark.heavy
@pytest.mark.parametrize("done", [1.0, 0.4])
def test_weighted_figures_are_those_of_the_log_whenever_people_stop(done: float) -> None:
    """On average over draws, with intervals that hold the truth as often as they say, and narrower than the audit's."""
    population, rng = Population(), np.random.default_rng(1)
    actual = population.figures()
    found: dict[tuple[int, str], list[tuple[float, float, float]]] = {}
    audit_alone, naive = [], []
    draws = 60
    for _ in range(draws):
        asked = population.asked(rng)
        labelled = list(asked)[: int(done * len(asked))]
        for label, figures in population.estimate(weights(asked, labelled)).items():
            for name in ("precision", "recall"):
                each = getattr(figures, name)
                found.setdefault((label, name), []).append((each.value, each.low, each.high))
        alone = population.estimate({key: 1.0 for key in labelled if asked[key].audit})[-1].precision
        everything = population.estimate(dict.fromkeys(labelled, 1.0))[-1].precision
        assert alone is not None and everything is not None
        audit_alone.append(alone.value)
        naive.append(everything.value)
    for (label, name), values in found.items():
        truth = getattr(actual[label], name).value
        value_D, low_D, high_D = np.array(values).T
        assert abs(value_D.mean() - truth) < 3.5 * value_D.std() / np.sqrt(draws), (label, name)
        assert ((low_D <= truth) & (truth <= high_D)).mean() > 0.85, (label, name)
    truth = actual[-1].precision
    assert truth is not None
    assert abs(np.mean(audit_alone) - truth.value) < 3.5 * np.std(audit_alone) / np.sqrt(draws)
    assert np.mean(naive) < truth.value - 0.05, "labels of the queue without weights say that decoders are worse"
    assert np.std([value for value, *_ in found[-1, "precision"]]) < np.std(audit_alone)


def test_weights_add_up_to_the_log() -> None:
    asked = Population().asked(np.random.default_rng(2))
    for done in (1.0, 0.5):
        labelled = list(asked)[: int(done * len(asked))]
        found = weights(asked, labelled)
        assert sum(found.values()) == pytest.approx(TURNS)
        certain = [key for key, weight in found.items() if asked[key].rank is not None and weight < 1.2]
        assert len(certain) > done * 0.7 * QUEUE
    assert weights(asked, []) == {} == weights(asked, [("another game", 1)])
    whole = {key: 1 / weight for key, weight in weights(asked, asked).items()}
    assert all(whole[key] == pytest.approx(each.chance, rel=0.15) for key, each in asked.items())
