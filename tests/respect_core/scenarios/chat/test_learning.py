"""The shipped recipes of conversations learn, on a small random model; equation 2's coefficient for free text."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from text_bases import small_llama

from respect_core.acting.policy import Policy
from respect_core.interaction import Interaction, Turn
from respect_core.learning import objectives
from respect_core.learning.trainer import train
from respect_core.model.base import attach_lora, load_base, save_adapter
from respect_core.model.vision import VisionFeatures
from respect_core.profiles import profile
from respect_core.scenario import scenario
from respect_core.training_data.sampling import Example
from respect_core.variants import Objective

MASK = torch.tensor([[True, True, True], [True, True, False]])
LOGP = torch.tensor([[-1.0, -2.0, -3.0], [-500.0, -700.0, 0.0]], dtype=torch.float64)


def test_the_coefficient_of_free_text_by_hand() -> None:
    """Per token, in log space: exp((log P - log p) / n). A p of a thousand nats below is as good as any other."""
    reward, p = torch.tensor([-0.1, -0.1]), torch.tensor([-7.5, -1300.0], dtype=torch.float64)
    c = objectives.text_coefficient(LOGP, MASK, reward, p)
    assert c.tolist() == pytest.approx([math.exp(1.5 / 3), math.exp(min(100 / 2, math.log(100)))])
    assert objectives.rl_coefficient(LOGP.sum(1), reward, p.exp())[1] == 0, "of p itself nothing would be left"


def test_only_negatives_need_a_propensity() -> None:
    unknown = torch.tensor([math.nan, -3.0], dtype=torch.float64)
    assert objectives.text_coefficient(LOGP, MASK, torch.tensor([1.0, -0.1]), unknown)[0] == 1
    with pytest.raises(ValueError, match="no logged probability"):
        objectives.text_coefficient(LOGP, MASK, torch.tensor([-0.1, -0.1]), unknown)


@pytest.mark.parametrize("objective", list(Objective))
def test_the_chat_recipe_learns(objective: Objective, tmp_path: Path) -> None:
    """What pleased becomes more probable against what did not."""
    chat = profile("chat")
    base = load_base(small_llama(), scenario("chat"), device="cpu")
    features, data = VisionFeatures(base, {}), []
    for number in range(12):
        turns = (
            Turn("", f"turn on lamp {number}", f"Lamp {number} is on.", logp=-40.0),
            Turn("", "and the radio", "I have no idea what a radio is.", logp=-60.0),
            Turn("", "bye", "Bye."),
        )
        liked = objective is Objective.FFT or number % 3
        data.append(Example(Interaction(f"t{number}", (), turns), (1, None if liked else -1, None)))
    start = tmp_path / "start"
    save_adapter(attach_lora(base, chat.lora, seed=7), start)
    config = chat.settings(f"b-{objective}", 0)
    result = train(
        base,
        data,
        None,
        config,
        chat.lora,
        0,
        tmp_path / "run",
        features=features,
        init_adapter=start if config.from_previous_adapter else None,
    )
    games = [example.interaction for example in data]
    before, after = (
        torch.tensor(Policy(base, adapter, features).log_probabilities(games))
        for adapter in (None, result.checkpoints[-1].adapter)
    )
    gain_NT = after - before
    assert gain_NT[:, 0].mean() > 0
    if objective is not Objective.FFT:
        negatives = torch.tensor([-1 in example.labels for example in data])
        lengths = torch.tensor([8.0, 10.0])
        per_token = gain_NT[:, :2] / lengths
        assert per_token[:, 0].mean() > per_token[negatives, 1].mean()
