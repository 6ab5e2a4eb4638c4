"""Turn the scores of a packed batch into its loss: the turns that count, their rewards, and KTO's references.

Deviations from the paper, and why:
1. KTO's KL term comes from one alternative action per kept turn, which the scenario names (`Scenario.alternative`).
2. The alternative is scored as a branch of the same pass, with the images in the order that the policy sees. The
   authors' code shuffles the images of the KL inputs separately, and then scores them with the policy's images.
3. KTO's reference is the logged p where there is one, as in the authors' code: log p is renormalised over the legal
   actions, and after deployments of several rounds comes from several policies. It is clamped from below as p of
   equation 2 is. `kto_reference="initial"` scores all references with the adapter that training starts from, which is
   the textbook objective. References of alternatives always come from that adapter: no log has their probability.
4. References that are not logged come from one pass before training, with the images in the logged order; in
   training the order changes by epoch. A pass per epoch would cost a third more for a difference that training
   with shuffled images keeps small.
5. z0 is the mean over the alternatives of a whole batch, as in the authors' code, but under the batch's own weights
   and dropout. Rehearsed turns contribute no alternatives.
6. Rehearsed turns of D0 have cross entropy under every objective, as in the authors' multi-task training. Under FFT
   and RL they would have it anyway. Under KTO, training with and without it made no clear difference (docs/log.md).
7. RL's entropy term is weighted by the size of the reward, as its loss is (appendix B.3, Data Imbalance).

Shape legend: N spans of a micro-batch, K of them kept turns, A alternatives, S tokens of the longest.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from respect_core.learning import objectives
from respect_core.model import threads
from respect_core.model.base import Base
from respect_core.model.chat import chat
from respect_core.model.packing import Encoded, Key, SpanScores, collate, encode, score, within_budget
from respect_core.model.vision import VisionFeatures
from respect_core.training_data.sampling import Example, Game
from respect_core.variants import Objective, TrainingConfig

References = Mapping[Key, float]
"""log P_ref(a|x) in nats of logged actions and alternatives."""


def encode_game(game: Game, base: Base, config: TrainingConfig) -> Encoded:
    """Encode a game with its images in the order of this epoch, to score its kept turns only.

    Under KTO each kept turn that is not rehearsed comes with its alternative.
    """
    scenario, interaction = base.scenario, game.interaction
    alternatives = {}
    if config.objective is Objective.KTO and not game.rehearsed:
        for turn in game.kept:
            if (action := scenario.alternative(interaction, turn)) is not None:
                other = replace(interaction, turns=(replace(interaction.turns[turn], action=action),))
                alternatives[turn] = scenario.permuted(other, game.permutation).turns[0].action or ""
    shuffled = scenario.permuted(interaction, game.permutation)
    return encode(shuffled, base.processor, scenario, alternatives=alternatives).only(game.kept)


def length(row: Encoded) -> int:
    """Count the tokens that a row's scores need: those after the last of them do not go through the model."""
    return 1 + max(max(span.predictors) for span in row.spans)


def longest_first(rows: Sequence[Encoded]) -> list[Encoded]:
    """Sort rows for passes, the longest first, so that similar lengths meet and padding stays small."""
    return sorted(rows, key=lambda row: (-length(row), row.interaction_id))


@torch.no_grad()
def references(
    model: Any, examples: Sequence[Example], base: Base, features: VisionFeatures, config: TrainingConfig
) -> References:
    """Collect KTO's references of turns that are not rehearsed.

    Each is the logged one if there is one and `config.kto_reference` says so, else scored by `model` as it is.
    """
    rows, logged = [], {}
    pad_id = chat(base.processor).pad_id
    for example in examples:
        if example.rehearsed:
            continue
        identity = tuple(range(len(example.interaction.context)))
        labels = tuple(label or None for label in example.labels)
        game = Game(example.interaction, labels, identity)
        if game.kept:
            rows.append(encode_game(game, base, config))
        for turn in game.kept:
            p = example.interaction.turns[turn].propensity
            if p is not None and config.kto_reference == "logged":
                lowest = -math.inf if base.scenario.free_text else math.log(config.propensity_floor)
                logged[Key(example.interaction.interaction_id, turn)] = max(p, lowest)
    was_training = model.training
    model.eval()
    features.ready(model, [image for row in rows for image in row.images])

    def run(batch: Sequence[Encoded]) -> dict[Key, float]:
        scores = score(model, collate(batch, pad_id), features)
        return dict(zip(scores.keys, objectives.span_total(scores.logp, scores.mask).tolist(), strict=True))

    by_key: dict[Key, float] = {}
    size = partial(threads.balanced_batch_size, most=config.micro_batch_interactions, device=model.device)
    for part in threads.map_parallel(run, within_budget(longest_first(rows), size, length), model.device):
        by_key |= part
    model.train(was_training)
    return by_key | logged


def reference_point(scored: Sequence[SpanScores], config: TrainingConfig, reference: References) -> Tensor:
    """Compute KTO's z0 over the alternatives of one or more passes, without gradient; a scalar."""
    longest = max(scores.logp.shape[1] for scores in scored)
    logp, mask, references_A = [], [], []
    for scores in scored:
        alternatives = [n for n, key in enumerate(scores.keys) if key.alternative]
        padding = (0, longest - scores.logp.shape[1])
        logp.append(pad(scores.logp[alternatives], padding))
        mask.append(pad(scores.mask[alternatives], padding))
        references_A += [reference[scores.keys[n]] for n in alternatives]
    logp_AS, mask_AS = torch.cat(logp), torch.cat(mask)
    reference_A = logp_AS.new_tensor(references_A)
    return objectives.kto_kl(logp_AS, mask_AS, reference_A, length_normalised=config.kto_length_normalised)


class TurnLosses(NamedTuple):
    """Losses of the kept turns of a micro-batch, and their parts."""

    loss: Tensor  # [K], entropy term included
    parts: Tensor  # [K, P], a column for each of PARTS; NaN if a turn has no such part


PARTS = ("objective", "rehearsal", "entropy", "log_ratio_positive", "log_ratio_negative")
"""Parts of a loss in a run's history: losses and entropy per turn, KTO's log-ratios in nats."""


def turn_losses(
    scores: SpanScores,
    games: Mapping[str, Game],
    config: TrainingConfig,
    reference: References,
    z0: Tensor | None = None,
    *,
    free_text: bool = False,
) -> TurnLosses:
    """Compute the loss of each kept turn of a micro-batch.

    Args:
        scores: of the micro-batch, with entropy and mean log-probability if the configuration uses them.
        games: the batch's games by interaction id.
        reference: from `references`; empty except for KTO.
        z0: KTO's, if these scores are only part of the batch; by default it is computed from them.
        free_text: whether actions are any text (`Scenario.free_text`): equation 2's ratio is then taken per token.
    """
    spans = [n for n, key in enumerate(scores.keys) if not key.alternative]
    keys = [scores.keys[n] for n in spans]
    logp_KS, mask_KS = scores.logp[spans], scores.mask[spans]
    labels_K = torch.tensor([games[key.interaction_id].labels[key.turn] for key in keys], device=logp_KS.device)
    rehearsed_K = torch.tensor([games[key.interaction_id].rehearsed for key in keys], device=logp_KS.device)
    smoothing: dict[str, Any] = {
        "label_smoothing": config.label_smoothing,
        "mean_logp_NS": None if scores.mean_logp is None else scores.mean_logp[spans],
    }
    weight_K = torch.ones_like(logp_KS[:, 0])  # of the entropy term
    ratio_K = torch.full_like(weight_K, math.nan)
    cross_entropy_K = objectives.fft_loss(logp_KS, mask_KS, length_normalised=config.length_normalised, **smoothing)
    if config.objective is Objective.FFT:
        objective_K = cross_entropy_K
    elif config.objective is Objective.RL:
        turns = [games[key.interaction_id].interaction.turns[key.turn] for key in keys]
        p_K = logp_KS.new_tensor([math.nan if turn.probability is None else turn.probability for turn in turns])
        reward_K = objectives.rewards(labels_K, config.negative_reward)
        coefficient_K = None
        if free_text:
            log_p_K = logp_KS.new_tensor([math.nan if turn.propensity is None else turn.propensity for turn in turns])
            coefficient_K = objectives.text_coefficient(logp_KS, mask_KS, reward_K, log_p_K, config.propensity_floor)
        objective_K = objectives.rl_loss(
            logp_KS,
            mask_KS,
            reward_K,
            p_K,
            floor=config.propensity_floor,
            coefficient_N=coefficient_K,
            length_normalised=config.length_normalised,
            **smoothing,
        )
        weight_K = reward_K.abs().to(logp_KS)
    else:
        # KTO's loss of a rehearsed turn is not used, so its reference does not matter.
        reference_K = logp_KS.new_tensor(
            [0.0 if games[key.interaction_id].rehearsed else reference[key] for key in keys]
        )
        objective_K = objectives.kto_loss(
            logp_KS,
            mask_KS,
            reference_K,
            labels_K > 0,
            reference_point([scores], config, reference) if z0 is None else z0,
            beta=config.kto_beta,
            desirable=config.kto_desirable,
            undesirable=config.kto_undesirable,
            length_normalised=config.kto_length_normalised,
            **smoothing,
        )
        ratio_K = objectives.log_ratio(
            logp_KS.detach(), mask_KS, reference_K, length_normalised=config.kto_length_normalised
        )
    loss_K = torch.where(rehearsed_K, cross_entropy_K, objective_K)
    entropy_K = torch.full_like(ratio_K, math.nan)
    if config.entropy_weight and scores.entropy is not None:
        loss_K = loss_K + objectives.entropy_term(scores.entropy[spans], mask_KS, config.entropy_weight * weight_K)
        entropy_K = objectives.span_mean(scores.entropy[spans].detach(), mask_KS)

    def only(mask_K: Tensor, values_K: Tensor) -> Tensor:
        return values_K.detach().masked_fill(~mask_K, math.nan)

    columns = (
        only(~rehearsed_K, objective_K),
        only(rehearsed_K, cross_entropy_K),
        entropy_K,
        only(~rehearsed_K & (labels_K > 0), ratio_K),
        only(~rehearsed_K & (labels_K < 0), ratio_K),
    )
    return TurnLosses(loss_K, torch.stack(columns, -1))
