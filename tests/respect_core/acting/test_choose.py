"""Choosing among very many candidates gives what choosing among few gives."""

from __future__ import annotations

import pytest
import torch

from respect_core.acting import decoding
from respect_core.acting.decoding import choose


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("candidates", [256, 1000, 5000])
def test_many_candidates_are_chosen_as_few_are(
    candidates: int, temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(candidates)
    scores = 4 * torch.randn(400, candidates, generator=generator)
    scores[:, ::3] = -torch.inf
    uniform = torch.rand(400, generator=generator, dtype=torch.float64)
    plain, plain_logp = choose(scores, uniform, temperature)
    monkeypatch.setattr(decoding, "_MANY", 0)
    chosen, logp = choose(scores, uniform, temperature)
    assert (chosen != plain).sum() <= 1  # a draw within rounding of a boundary
    same = chosen == plain
    torch.testing.assert_close(logp[same], plain_logp[same])


def test_nothing_of_probability_zero_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "_MANY", 0)
    scores = torch.full((3, 600), -torch.inf)
    scores[:, 300] = 1.0
    uniform = torch.tensor([0.0, 0.5, 1 - 2**-53], dtype=torch.float64)
    assert choose(scores, uniform, 1.0)[0].tolist() == [300] * 3
    assert choose(scores, uniform, 1.0)[1].tolist() == [0.0] * 3


def test_draws_have_the_softmaxs_frequencies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "_MANY", 0)
    scores = torch.tensor([0.0, 1.0, 2.0, *[-torch.inf] * 500, 1.5]).repeat(20_000, 1)
    uniform = torch.rand(20_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    drawn = torch.bincount(choose(scores, uniform, 1.0)[0], minlength=504) / 20_000
    torch.testing.assert_close(drawn, scores[0].softmax(-1), atol=0.015, rtol=0.0)
