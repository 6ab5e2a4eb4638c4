from __future__ import annotations

from pathlib import Path
from typing import Any

import models
import peft
import pytest
import torch

from respect_core.acting.policy import Policy
from respect_core.interaction import waiting
from respect_core.learning.validation import Candidate, choose, exact_match
from respect_core.model import packing
from respect_core.model.base import attach_lora, save_adapter
from respect_core.scenarios.multiref.scenario import SCENARIO
from respect_core.variants import LoraConfig

GAMES = [models.game(seed, turns=3, n_images=3) for seed in range(60, 64)]


@pytest.fixture(scope="module")
def policy() -> Policy:
    """A policy that was taught just enough for some of the actions in GAMES to match."""
    model = attach_lora(models.base(), LoraConfig(rank=16, alpha=32, dropout=0.0), seed=0)
    batch = packing.collate([packing.encode(game, models.base().processor, SCENARIO) for game in GAMES[:3]], 0)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=5e-3)
    for _ in range(10):
        optimizer.zero_grad()
        scores = packing.score(model, batch, models.features())
        (-scores.logp.sum() / scores.mask.sum()).backward()
        optimizer.step()
    return Policy(models.base(), model, models.features())


def greedy_matches(model: Any, processor: Any) -> dict[tuple[str, int], bool]:
    """Exact match by stock generation on pixels, turn by turn."""
    matches = {}
    for game in GAMES:
        for turn, reference in enumerate(game.turns):
            inputs = models.stock_inputs(waiting(game, turn), processor, generate=True)
            image = [[processor.image_token_id]]
            ids = model.generate(**inputs, max_new_tokens=12, do_sample=False, bad_words_ids=image)
            text = processor.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
            matches[game.interaction_id, turn] = text.strip() == reference.action
    return matches


def test_exact_match_is_what_greedy_generation_says(policy: Policy) -> None:
    policy.model.eval()
    result = exact_match(policy, GAMES)
    assert result.scores == greedy_matches(policy.model, models.base().processor)
    assert 0 < result.exact_match < 1 and result.n_turns == 12
    assert result.exact_match == sum(result.scores.values()) / 12


def test_an_adapter_validates_the_same_under_stock_code(policy: Policy, tmp_path: Path) -> None:
    result = exact_match(policy, GAMES, count_illegal=False)
    assert result.illegal_actions is None and result.exact_match > 0
    save_adapter(policy.model, tmp_path / "adapter")
    models.base().model.save_pretrained(tmp_path / "base")
    models.base().processor.save_pretrained(tmp_path / "base")
    model, processor = models.reload(tmp_path / "base")
    model = peft.PeftModel.from_pretrained(model, str(tmp_path / "adapter"))
    assert greedy_matches(model, processor) == result.scores
    loaded = exact_match(Policy(models.base(), tmp_path / "adapter", models.features()), GAMES)
    assert loaded.scores == result.scores


def test_sampled_match_is_the_mean_probability_of_the_right_actions(policy: Policy) -> None:
    """The exact match of actions drawn without constraint at temperature 1, in expectation."""
    wanted = {("game-60", 1), ("game-60", 2), ("game-63", 0)}
    rows = [packing.encode(game, models.base().processor, SCENARIO) for game in GAMES]
    with torch.no_grad():
        scores = packing.score(policy.model, packing.collate(rows, 0), models.features())
    p = {key[:2]: scores.logp[n][scores.mask[n]].sum().exp().item() for n, key in enumerate(scores.keys)}
    found = exact_match(policy, GAMES, wanted)
    assert found.sampled_match == pytest.approx(sum(p[turn] for turn in wanted) / 3, rel=1e-4)
    assert exact_match(policy, GAMES).sampled_match == pytest.approx(sum(p.values()) / len(p), rel=1e-4)


def test_only_the_turns_asked_for_count(policy: Policy) -> None:
    every = exact_match(policy, GAMES)
    wanted = {("game-60", 1), ("game-60", 2), ("game-63", 0)}
    some = exact_match(policy, GAMES, wanted)
    assert some.scores == {turn: every.scores[turn] for turn in wanted} and some.n_turns == 3
    with pytest.raises(ValueError, match="game-60"):
        exact_match(policy, GAMES, {("game-60", 9)})
    with pytest.raises(ValueError, match="any turn"):
        exact_match(policy, GAMES, set())


def test_illegal_actions_are_counted() -> None:
    # Untrained, the base alone writes nonsense.
    policy = Policy(models.base(), None, models.features())
    result = exact_match(policy, [models.game(seed, turns=2, n_images=3) for seed in range(70, 73)])
    assert result.exact_match == 0 and result.illegal_actions == result.n_turns == 6


def test_training_mode_is_restored() -> None:
    model = models.random_lora().train()
    exact_match(Policy(models.base(), model, models.features()), [models.game(75, turns=1)])
    assert model.training


def test_the_best_checkpoint_is_chosen_and_ties_go_to_the_earlier_then_the_lower_seed() -> None:
    candidates = [Candidate(0, 30, 0.4), Candidate(1, 20, 0.5), Candidate(2, 10, 0.5), Candidate(0, 10, 0.5)]
    assert choose(candidates) == candidates[3]
    assert choose(candidates[:3]) == candidates[2]
    assert choose(candidates[:2]) == candidates[1]
    with pytest.raises(ValueError):
        choose([])
