"""Objectives against arithmetic done by hand, in numpy and by finite differences."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from respect_core.learning import objectives

# Three turns over a vocabulary of 5; actions of 2, 3 and 1 tokens.
LENGTHS = (2, 3, 1)
MASK = torch.arange(3)[None, :] < torch.tensor(LENGTHS)[:, None]
TOKENS = np.array([[1, 0, 0], [4, 2, 3], [2, 0, 0]])
LOGITS = np.random.default_rng(0).normal(size=(3, 3, 5))


def _logp(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Token log-probabilities, their mean over the vocabulary, and the entropy, each [N, S]."""
    full = logits.log_softmax(-1)
    return full.gather(-1, torch.tensor(TOKENS)[..., None])[..., 0], full.mean(-1), -(full.exp() * full).sum(-1)


def _np_logp(logits: np.ndarray) -> list[float]:
    """log P(a|x) of each turn, without torch."""
    total = []
    for turn, length in enumerate(LENGTHS):
        steps = [
            logits[turn, s, TOKENS[turn, s]] - math.log(sum(math.exp(v) for v in logits[turn, s]))
            for s in range(length)
        ]
        total.append(sum(steps))
    return total


def _gradient(loss: Callable[[Tensor], Tensor]) -> np.ndarray:
    logits = torch.tensor(LOGITS, requires_grad=True)
    loss(logits).backward()
    assert logits.grad is not None
    return logits.grad.numpy()


def _finite_differences(value: Callable[[np.ndarray], float], step: float = 1e-6) -> np.ndarray:
    result = np.zeros_like(LOGITS)
    for index in np.ndindex(*LOGITS.shape):
        bump = np.zeros_like(LOGITS)
        bump[index] = step
        result[index] = (value(LOGITS + bump) - value(LOGITS - bump)) / (2 * step)
    return result


@pytest.mark.parametrize("length_normalised", [True, False])
@pytest.mark.parametrize("labels", [(1, 0, -1), (-1, -1, -1), (1, 1, 1)])
def test_rl_equals_arithmetic_by_hand(labels: tuple[int, ...], length_normalised: bool) -> None:
    """Equations 1 and 2: c R grad log P, with c held constant; one p lies below the floor."""
    p = (0.4, 0.001, 0.7)
    reward = [{1: 1.0, 0: 0.0, -1: -0.1}[label] for label in labels]
    logp = _np_logp(LOGITS)
    c = [math.exp(logp[n]) / max(p[n], 0.01) if reward[n] < 0 else 1.0 for n in range(3)]
    scale = LENGTHS if length_normalised else (1, 1, 1)

    def ascent(logits: np.ndarray) -> float:
        return sum(c[n] * reward[n] * value / scale[n] for n, value in enumerate(_np_logp(logits)))

    def loss(logits: Tensor) -> Tensor:
        rewards = objectives.rewards(torch.tensor(labels)).double()
        return objectives.rl_loss(
            _logp(logits)[0], MASK, rewards, torch.tensor(p).double(), length_normalised=length_normalised
        ).sum()

    assert loss(torch.tensor(LOGITS)).item() == pytest.approx(-ascent(LOGITS), abs=1e-7)
    np.testing.assert_allclose(_gradient(loss), -_finite_differences(ascent), atol=1e-8)


def test_rl_gradient_of_a_negative_is_the_gradient_of_the_probability() -> None:
    """P grad log P = grad P: the weight keeps a negative's gradient finite as its probability vanishes."""
    p, reward = 0.3, -0.1

    def value(logits: np.ndarray) -> float:
        return -reward / p * math.exp(_np_logp(logits)[1])

    def loss(logits: Tensor) -> Tensor:
        logp = _logp(logits)[0][1:2]
        return objectives.rl_loss(
            logp, MASK[1:2], torch.tensor([reward]), torch.tensor([p]), length_normalised=False
        ).sum()

    np.testing.assert_allclose(_gradient(loss), _finite_differences(value), atol=1e-7)


def test_rl_needs_p_only_for_negatives() -> None:
    logp = _logp(torch.tensor(LOGITS))[0]
    unknown = torch.tensor([math.nan, math.nan, 0.5])
    good = objectives.rl_loss(logp, MASK, torch.tensor([1.0, 0.0, -0.1]), unknown)
    assert good.isfinite().all()
    assert good[1] == 0
    with pytest.raises(ValueError, match="no logged probability"):
        objectives.rl_loss(logp, MASK, torch.tensor([1.0, -0.1, -0.1]), unknown)


def test_fft_is_cross_entropy_with_smoothing() -> None:
    logp, mean_logp, _ = _logp(torch.tensor(LOGITS))
    plain = objectives.fft_loss(logp, MASK)
    np.testing.assert_allclose(plain.numpy(), [-v / n for v, n in zip(_np_logp(LOGITS), LENGTHS, strict=True)])
    smooth = objectives.fft_loss(logp, MASK, label_smoothing=0.1, mean_logp_NS=mean_logp)
    for turn, length in enumerate(LENGTHS):
        expected = torch.nn.functional.cross_entropy(
            torch.tensor(LOGITS[turn, :length]), torch.tensor(TOKENS[turn, :length]), label_smoothing=0.1
        )
        assert smooth[turn].item() == pytest.approx(expected.item(), abs=1e-12)
    with pytest.raises(ValueError, match="mean log-probability"):
        objectives.fft_loss(logp, MASK, label_smoothing=0.1)


def test_kto_by_hand() -> None:
    logp = _logp(torch.tensor(LOGITS))[0]
    reference = torch.tensor([-3.0, -4.0, -1.0]).double()
    positive = torch.tensor([True, False, True])
    kl = objectives.kto_kl(logp, MASK, torch.tensor([-9.0, -9.0, -9.0]).double(), length_normalised=False)
    ratios = [value + 9 for value in _np_logp(LOGITS)]
    assert kl.item() == pytest.approx(sum(ratios) / 3)
    loss = objectives.kto_loss(
        logp, MASK, reference, positive, kl, beta=0.5, desirable=4.0, undesirable=2.0, length_normalised=False
    )
    for turn, value in enumerate(_np_logp(LOGITS)):
        ratio = value - reference[turn].item()
        sign, weight = (1, 4.0) if positive[turn] else (-1, 2.0)
        expected = weight * (1 - 1 / (1 + math.exp(-0.5 * sign * (ratio - kl.item()))))
        assert loss[turn].item() == pytest.approx(expected, abs=1e-9)


def test_kto_reference_point_has_no_gradient_and_is_not_negative() -> None:
    logits = torch.tensor(LOGITS, requires_grad=True)
    kl = objectives.kto_kl(_logp(logits)[0], MASK, torch.zeros(3))
    assert not kl.requires_grad
    assert kl.item() == 0
    assert objectives.kto_kl(torch.zeros(0, 1), torch.zeros(0, 1, dtype=torch.bool), torch.zeros(0)).item() == 0


def test_kto_smoothing_adds_the_cross_entropy_to_uniform() -> None:
    logp, mean_logp, _ = _logp(torch.tensor(LOGITS))
    reference, positive, kl = torch.zeros(3), torch.tensor([True, True, False]), torch.tensor(0.0)
    plain = objectives.kto_loss(logp, MASK, reference, positive, kl)
    smooth = objectives.kto_loss(logp, MASK, reference, positive, kl, label_smoothing=0.01, mean_logp_NS=mean_logp)
    for turn, length in enumerate(LENGTHS):
        uniform = torch.full((length, 5), 0.2, dtype=torch.float64)
        expected = 0.01 * torch.nn.functional.cross_entropy(torch.tensor(LOGITS[turn, :length]), uniform)
        assert (smooth - plain)[turn].item() == pytest.approx(expected.item(), abs=1e-12)


def test_entropy_term_raises_entropy() -> None:
    def loss(logits: Tensor) -> Tensor:
        return objectives.entropy_term(_logp(logits)[2], MASK, 0.01).sum()

    logits = torch.tensor(LOGITS)
    moved = logits - 0.1 * torch.tensor(_gradient(loss))
    assert loss(moved) < loss(logits) < 0
    # Tokens beyond an action carry none of it.
    assert np.abs(_gradient(loss)[~MASK.numpy()]).max() == 0
    by_turn = objectives.entropy_term(_logp(logits)[2], MASK, torch.tensor([1.0, 0.5, 0.0]))
    assert by_turn[1] == objectives.entropy_term(_logp(logits)[2], MASK, 0.5)[1] and by_turn[2] == 0


def test_padding_may_hold_anything() -> None:
    logp = _logp(torch.tensor(LOGITS))[0]
    dirty = logp.masked_fill(~MASK, -math.inf)
    torch.testing.assert_close(objectives.fft_loss(dirty, MASK), objectives.fft_loss(logp, MASK))


def test_micro_batches_add_up_to_the_batch() -> None:
    loss = torch.tensor([1.0, 2.0, 6.0])
    whole = objectives.batch_loss(loss, turns=3)
    parts = objectives.batch_loss(loss[:1], turns=3) + objectives.batch_loss(loss[1:], turns=3)
    assert whole.item() == pytest.approx(parts.item()) == pytest.approx(3.0)
