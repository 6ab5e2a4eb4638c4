"""Compute the three learning objectives of section 4.2, with the terms of section 5: pure functions of tensors.

Deviations from the paper, and why:
1. P(a|x) of equation 2 is over the full vocabulary, while the logged p is renormalised over the legal actions: the
   gradient is the model's own, the propensity that of the policy that acted. Under the same weights
   P = p P(legal) <= p, so negatives weigh slightly less than with one definition for both.
2. The propensity is clamped from below at `floor` (0.01, as in the authors' code), which bounds c of equation 2.
3. KTO's log-ratios are sums over the action's tokens, as in the released code and the textbook. Section 5 speaks of
   length normalisation for "all three objectives"; with it, beta of Table 1 would mean less by the length of an action.
   `length_normalised=True` divides, in the loss and in its KL term.
4. KTO's KL term is estimated from one alternative action per turn (`Scenario.alternative`), as in the authors' code,
   not from mismatched pairs of a batch: the actions of other turns are often illegal here.
5. The mean of a batch is over turns, and each turn's over its tokens: a turn counts the same whether it names one image
   or five. SFTTrainer takes the mean over all tokens of a batch; `length_normalised=False` and a division by the number
   of tokens gives that.
6. Label smoothing of KTO is a cross entropy to the uniform distribution added to the loss. It is not inside the ratio,
   because the logged reference has no such part.
7. The entropy term is over the full vocabulary, as the losses are. Play samples legal actions only, so no log has an
   illegal one and no loss punishes the mass that a policy puts on illegal text. That mass does not grow: 1 to 2% of
   greedy actions are illegal before and after a round, with cross entropy on D0 or without (docs/log.md). Scoring only
   legal continuations cost games, so all of the vocabulary is scored.

8. Of free text, such as a chat's replies, P and p are zero in any float, and with a floor under p every c would vanish.
   `text_coefficient` takes the ratio per token, in log space, and bounds it by 1 / `floor`.

Shape legend:
    N  turns (action spans)
    S  tokens of the longest action, end token included
Suffixes of tensor names give their shape: `logp_NS` is [N, S]. A mask is True at the tokens of an action.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def span_total(values_NS: Tensor, mask_NS: Tensor) -> Tensor:
    """Sum over the tokens of each action, [N]. Of log-probabilities: log P(a|x)."""
    return values_NS.masked_fill(~mask_NS, 0.0).sum(-1)


def span_mean(values_NS: Tensor, mask_NS: Tensor) -> Tensor:
    """Average over the tokens of each action, [N]."""
    return span_total(values_NS, mask_NS) / mask_NS.sum(-1)


def _pooled(values_NS: Tensor, mask_NS: Tensor, length_normalised: bool) -> Tensor:
    return span_mean(values_NS, mask_NS) if length_normalised else span_total(values_NS, mask_NS)


def smoothed(logp_NS: Tensor, mean_logp_NS: Tensor | None, label_smoothing: float) -> Tensor:
    """Smooth the labels: (1 - e) log p(token) + e mean over the vocabulary of log p, [N, S].

    Raises:
        ValueError: there is smoothing and `mean_logp_NS` is None.
    """
    if label_smoothing == 0.0:
        return logp_NS
    if mean_logp_NS is None:
        raise ValueError("label smoothing needs the mean log-probability over the vocabulary; score with it")
    return (1 - label_smoothing) * logp_NS + label_smoothing * mean_logp_NS


def fft_loss(
    logp_NS: Tensor,
    mask_NS: Tensor,
    *,
    length_normalised: bool = True,
    label_smoothing: float = 0.0,
    mean_logp_NS: Tensor | None = None,
) -> Tensor:
    """Compute filtered fine-tuning (section 4.2): cross entropy of each kept turn's action, in nats, [N]."""
    return -_pooled(smoothed(logp_NS, mean_logp_NS, label_smoothing), mask_NS, length_normalised)


def rewards(labels_N: Tensor, negative_reward: float = -0.1) -> Tensor:
    """Compute equation 1: +1 / 0 / `negative_reward` for labels +1 / 0 / -1, [N]."""
    return torch.where(labels_N < 0, negative_reward, labels_N.clamp(min=0).to(torch.float32))


def rl_coefficient(logp_N: Tensor, reward_N: Tensor, probability_N: Tensor, floor: float = 0.01) -> Tensor:
    """Compute c of equation 2, without gradient, [N]: 1 where R >= 0, else P(a|x) / max(p, floor).

    Raises:
        ValueError: a turn of negative reward has no probability (NaN).
    """
    negative_N = reward_N < 0
    if bool((negative_N & probability_N.isnan()).any()):
        raise ValueError("a turn of negative reward has no logged probability; see sampling.require_probability")
    ratio_N = logp_N.detach().exp() / probability_N.clamp(min=floor)
    return torch.where(negative_N, ratio_N, torch.ones_like(ratio_N))


def text_coefficient(
    logp_NS: Tensor, mask_NS: Tensor, reward_N: Tensor, propensity_N: Tensor, floor: float = 0.01
) -> Tensor:
    """Compute c of equation 2 for free text, without gradient, [N] (deviation 8): the ratio's geometric mean per token.

    Args:
        propensity_N: log p; NaN where unknown and R >= 0.

    Raises:
        ValueError: a turn of negative reward has no log p (NaN).
    """
    negative_N = reward_N < 0
    if bool((negative_N & propensity_N.isnan()).any()):
        raise ValueError("a turn of negative reward has no logged probability; see sampling.require_probability")
    ratio_N = log_ratio(logp_NS.detach(), mask_NS, propensity_N, length_normalised=True).clamp(max=-math.log(floor))
    return torch.where(negative_N, ratio_N.exp(), torch.ones_like(ratio_N))


def rl_loss(
    logp_NS: Tensor,
    mask_NS: Tensor,
    reward_N: Tensor,
    probability_N: Tensor,
    *,
    floor: float = 0.01,
    coefficient_N: Tensor | None = None,
    length_normalised: bool = True,
    label_smoothing: float = 0.0,
    mean_logp_NS: Tensor | None = None,
) -> Tensor:
    """Compute REINFORCE with inverse propensity (equations 1, 2), [N].

    Equation 2 is a direction of ascent; this is its negative, so that minimising it follows the paper. Only the
    gradient is meaningful: the value is -c R log P(a|x).

    Args:
        reward_N: from `rewards`.
        probability_N: p with which the deployed policy took the action; NaN where unknown and R >= 0.
        coefficient_N: c of equation 2; computed from p by default.
    """
    c_N = coefficient_N
    if c_N is None:
        c_N = rl_coefficient(span_total(logp_NS, mask_NS), reward_N, probability_N, floor)
    likelihood_N = _pooled(smoothed(logp_NS, mean_logp_NS, label_smoothing), mask_NS, length_normalised)
    return -c_N * reward_N * likelihood_N


def log_ratio(logp_NS: Tensor, mask_NS: Tensor, reference_N: Tensor, *, length_normalised: bool = False) -> Tensor:
    """Compute log P(a|x) - log P_ref(a|x), divided by the number of action tokens if `length_normalised`, [N]."""
    ratio_N = span_total(logp_NS, mask_NS) - reference_N
    return ratio_N / mask_NS.sum(-1) if length_normalised else ratio_N


def kto_kl(logp_NS: Tensor, mask_NS: Tensor, reference_N: Tensor, *, length_normalised: bool = False) -> Tensor:
    """Compute KTO's z0: mean log-ratio of the alternative actions, at least 0, without gradient; a scalar.

    N counts alternatives here; with none, z0 is 0.
    """
    if logp_NS.shape[0] == 0:
        return logp_NS.new_zeros(())
    ratio_N = log_ratio(logp_NS.detach(), mask_NS, reference_N, length_normalised=length_normalised)
    return ratio_N.mean().clamp(min=0)


def kto_loss(
    logp_NS: Tensor,
    mask_NS: Tensor,
    reference_N: Tensor,
    positive_N: Tensor,
    kl: Tensor,
    *,
    beta: float = 0.5,
    desirable: float = 1.0,
    undesirable: float = 1.0,
    length_normalised: bool = False,
    label_smoothing: float = 0.0,
    mean_logp_NS: Tensor | None = None,
) -> Tensor:
    """Compute Kahneman-Tversky optimisation (Ethayarajh et al., 2024, equation 7; section 4.2), [N].

    Args:
        reference_N: log P_ref(a|x), summed over the action.
        positive_N: True for desired turns (decoded positive), False for undesired ones.
        kl: z0 from `kto_kl`.
    """
    ratio_N = log_ratio(logp_NS, mask_NS, reference_N, length_normalised=length_normalised)
    gain_N = torch.where(positive_N, ratio_N - kl, kl - ratio_N)
    weight_N = torch.where(positive_N, desirable, undesirable)
    loss_N = weight_N * (1 - torch.sigmoid(beta * gain_N))
    if label_smoothing:
        uniform_NS = smoothed(torch.zeros_like(logp_NS), mean_logp_NS, label_smoothing)
        loss_N = loss_N - span_mean(uniform_NS, mask_NS)
    return loss_N


def entropy_term(entropy_NS: Tensor, mask_NS: Tensor, weight: float | Tensor) -> Tensor:
    """Compute section 5's term: -`weight` times the mean entropy (nats, over the vocabulary) of action tokens, [N].

    `weight` may be one per turn, [N].
    """
    return -weight * span_mean(entropy_NS, mask_NS)


def batch_loss(loss_N: Tensor, *, turns: int) -> Tensor:
    """Compute a micro-batch's share of its batch's mean over turns; a scalar.

    Args:
        turns: number of turns with a loss in the whole batch, so that the shares of its micro-batches sum to its mean.
    """
    return loss_N.sum() / turns
