"""Every recipe that a profile ships, with every term on: it learns, and its optimum is not the uniform policy."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from toy import base as toy_base
from toy import features as toy_features
from toy import toy

from respect_core.acting.policy import Policy
from respect_core.interaction import Interaction, Turn
from respect_core.learning import batch_loss
from respect_core.learning.trainer import refuse_uniform_optimum, train
from respect_core.learning.validation import exact_match
from respect_core.log.records import from_log
from respect_core.model.base import Base, attach_lora, load_base, save_adapter
from respect_core.model.packing import Key, SpanScores
from respect_core.model.vision import VisionFeatures
from respect_core.profiles import PROFILES, profile
from respect_core.scenario import scenario
from respect_core.scenarios.multiref import actions, contexts, speakers, tangrams
from respect_core.scenarios.multiref.scenario import SCENARIO
from respect_core.training_data.sampling import Example, Game
from respect_core.variants import LoraConfig, Objective, TrainingConfig

RECIPES = [
    (name, objective, round)
    for name in sorted(PROFILES)
    for objective in Objective
    for round in (0, 3)
    if round == 0 or profile(name).settings(f"b-{objective}", round) != profile(name).settings(f"b-{objective}", 0)
]
VOCABULARY = {"tiny": 702, "idefics2-8b": 32003, "chat": 49152, "home": 49152}


def _recipe(name: str, objective: Objective, round: int) -> TrainingConfig:
    return profile(name).settings(f"b-{objective}", round)


# --- the optimum ------------------------------------------------------------------------------------------------


def _loss_of(confidence: float, config: TrainingConfig, vocabulary: int, *, free_text: bool = False) -> float:
    """Loss of five positives and four negatives under a policy that gives each logged token so much probability.

    KTO's reference gives it 0.5.
    """
    labels, length = [1] * 5 + [-1] * 4, 4
    games = {
        f"g{n}": Game(Interaction(f"g{n}", ("x", "y"), (Turn("", "say", "select A", 0.5**length),)), (label,), (0, 1))
        for n, label in enumerate(labels)
    }
    rest = (1 - confidence) / (vocabulary - 1)
    probabilities = torch.tensor([confidence, *[rest] * (vocabulary - 1)], dtype=torch.float64)
    table = torch.ones(2 * len(labels), length, dtype=torch.float64)
    keys = [Key(name, 0, alternative) for alternative in (False, True) for name in games]
    scores = SpanScores(
        keys=tuple(keys),
        mask=table.bool(),
        logp=table * probabilities[0].log(),
        correct=table.bool(),
        entropy=table * -(probabilities * probabilities.log()).sum(),
        mean_logp=table * probabilities.log().mean(),
    )
    reference = dict.fromkeys(keys, length * torch.tensor(0.5).log().item())
    return float(batch_loss.turn_losses(scores, games, config, reference, free_text=free_text).loss.mean())


@pytest.mark.parametrize(("name", "objective", "round"), RECIPES)
def test_the_uniform_policy_is_not_the_optimum(name: str, objective: Objective, round: int) -> None:
    config, vocabulary = _recipe(name, objective, round), VOCABULARY[name]
    free_text = scenario(profile(name).scenario).free_text
    uniform, better = (_loss_of(p, config, vocabulary, free_text=free_text) for p in (1 / vocabulary, 0.5))
    assert uniform > better
    refuse_uniform_optimum(config, vocabulary)


@pytest.mark.parametrize("name", sorted(PROFILES))
def test_a_kto_whose_optimum_is_the_uniform_policy_is_refused(name: str) -> None:
    """Table 1's entropy weight and round 3's lambdas, as a bonus over the whole vocabulary."""
    config = replace(_recipe(name, Objective.KTO, 0), entropy_weight=0.1, kto_desirable=1.0)
    vocabulary = VOCABULARY[name]
    assert _loss_of(1 / vocabulary, config, vocabulary) < _loss_of(0.5, config, vocabulary)
    with pytest.raises(ValueError, match=r"entropy_weight 0\.1 is too large for kto .* set it below 0\.0[58]"):
        refuse_uniform_optimum(config, vocabulary)


# --- learning ---------------------------------------------------------------------------------------------------


def _margin(before: dict[Key, float], after: dict[Key, float], data: list[Example]) -> float:
    """By how much log P of positives rose above that of negatives, in nats per turn."""
    labels = {(e.interaction.interaction_id, turn): label for e in data for turn, label in enumerate(e.labels)}
    gains = {
        sign: [after[key] - before[key] for key in before if not key.alternative and labels[key[:2]] == sign]
        for sign in (1, -1)
    }
    means = [sum(values) / len(values) if values else 0.0 for values in gains.values()]
    return means[0] - means[1]


def _scored(base: Base, model: Any, data: list[Example], features: VisionFeatures) -> dict[Key, float]:
    """log P of every labelled turn and of KTO's alternatives, without dropout."""
    config = replace(_recipe("tiny", Objective.KTO, 0), kto_reference="initial")
    found = batch_loss.references(model, [replace(e, rehearsed=False) for e in data], base, features, config)
    return dict(found)


@pytest.mark.parametrize(("objective", "round"), [each[1:] for each in RECIPES if each[0] == "idefics2-8b"])
def test_the_papers_recipe_learns(objective: Objective, round: int, tmp_path: Path) -> None:
    """Twenty epochs at Table 1's rates, which are small for a toy: what counts is the direction."""
    config = _recipe("idefics2-8b", objective, round)
    base, features, data = toy_base(), toy_features(), toy(12, negatives=objective is not Objective.FFT)
    start = tmp_path / "start"
    save_adapter(attach_lora(base, LoraConfig(), seed=7), start)
    result = train(
        base,
        data,
        None,
        config,
        LoraConfig(),
        0,
        tmp_path / "run",
        features=features,
        init_adapter=start if config.from_previous_adapter else None,
    )
    assert len(result.history) == 20
    fresh = Policy(base, None, features).model
    before, after = (
        _scored(base, model, data, features)
        for model in (fresh, Policy(base, result.checkpoints[-1].adapter, features).model)
    )
    assert _margin(before, after, data) > 5e-4


STEPS = 12


@cache
def _world() -> tuple[Base, VisionFeatures, list[Example], list[Interaction]]:
    """The tiny base, its pictures, decoded games with D0, and unseen games to validate on.

    Every third game ends with a click that nobody meant, which is decoded as negative.
    """
    chosen = contexts.sample(tangrams.procedural_pool().main, 34, "recipes")
    factory = speakers.speaker_factory(speakers.values_of(tangrams.procedural_pool().tangrams))
    played = [from_log(log) for log in speakers.human_games(chosen, factory, seed="recipes")]
    pool, base = tangrams.procedural_pool().tangrams, load_base("tiny", SCENARIO, device="cpu")
    pictures = {image: tangrams.render(pool[image]) for game in played for image in game.context}
    draw, data = random.Random(0), []
    for number, game in enumerate(played[:24]):
        turns = [replace(turn, probability=0.5) for turn in game.turns]
        labels: list[int | None] = [1] * len(turns)
        if number % 3 == 0:
            others = [f"select {letter}" for letter in actions.LETTERS[:10] if letter not in turns[-1].state]
            wrong = draw.choice([other for other in others if other != turns[-1].action])
            turns[-1] = replace(turns[-1], action=wrong)
            labels = [None] * (len(turns) - 1) + [-1]
        rehearsed = number % 3 == 1 and number < 12
        data.append(Example(replace(game, turns=tuple(turns)), tuple(labels), rehearsed))
    return base, VisionFeatures(base, pictures), data, played[24:]


@pytest.mark.parametrize("objective", list(Objective))
def test_the_tiny_recipe_learns(objective: Objective, tmp_path: Path) -> None:
    """In the first tenth of a round's steps: what collapses does it in eight."""
    config = replace(_recipe("tiny", objective, 0), max_steps=STEPS, checkpoint_every=STEPS)
    base, features, data, unseen = _world()
    start = tmp_path / "start"
    save_adapter(attach_lora(base, profile("tiny").lora, seed=7), start)

    def validate(model: Any) -> dict[str, float]:
        result = exact_match(Policy(base, model, features), unseen)
        return {"sampled": result.sampled_match, "illegal": result.illegal_actions or 0, "turns": result.n_turns}

    result = train(
        base, data, validate, config, profile("tiny").lora, 0, tmp_path / "run", features=features, init_adapter=start
    )
    first, last = (point.validation for point in result.checkpoints)
    assert last["illegal"] <= 0.05 * last["turns"]
    assert last["sampled"] > first["sampled"] - 0.05
    assert result.history[-1].entropy < 1, "the uniform policy has 6.6 nats"
    before, after = (
        _scored(base, Policy(base, point.adapter, features).model, data, features) for point in result.checkpoints
    )
    assert _margin(before, after, data) > 0.5
