"""From the scores of a packed batch to its loss: who is kept, with which reward, against which reference.

Deviations from the paper, and why:
1. KTO's KL term comes from one alternative action per kept turn: `select X` with X the first image of the logged
   context that is not the turn's own single click (the authors' way). Here X must also be unselected, so that the
   action is legal; a turn with every other image selected has none.
2. The alternative is scored as a branch of the same pass, with the images in the order the policy sees. The authors'
   code shuffles the images of the KL inputs on their own, and then scores them with the policy's images.
3. KTO's reference is the logged p where there is one, as in the authors' code: log p is renormalised over the legal
   actions, and under deployments of several rounds belongs to several policies. `kto_reference="initial"` scores
   all references with the adapter that training starts from, which is the textbook objective.
4. References that are not logged come from one pass before training, with the images in the logged order; in
   training the order changes by epoch. A pass per epoch would cost a third more for a difference that training
   with shuffled images keeps small.
5. z0 is the mean over the turns of a micro-batch, not of a batch (the authors' micro-batch has two turns).

Shape legend: N spans of a micro-batch, K of them kept turns, A alternatives, S tokens of the longest.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from respect_core import actions, cores, objectives
from respect_core.chat import chat
from respect_core.features import VisionFeatures
from respect_core.interaction import Turn
from respect_core.packing import Encoded, Key, SpanScores, collate, encode, score, shuffled, within_budget
from respect_core.sampling import Example, Game
from respect_core.variants import Objective, TrainingConfig

References = Mapping[Key, float]
"""log P_ref(a|x) in nats of logged actions and alternatives."""


def alternative(turn: Turn, n_images: int) -> str | None:
    """The action that stands for all others in KTO's KL term, or None where no legal one is left."""
    action = actions.parse(turn.action or actions.NOTHING)
    own = action.select if not action.deselect and len(action.select) == 1 else ""
    letter = next((letter for letter in actions.LETTERS[:n_images] if letter not in turn.state + own), None)
    return None if letter is None else str(actions.Action(select=letter))


def encode_game(game: Game, processor: Any, config: TrainingConfig) -> Encoded:
    """A game's tokens with its images in the order of this epoch; scores for its kept turns alone.

    Under KTO each kept turn has its alternative beside it.
    """
    alternatives = {}
    if config.objective is Objective.KTO:
        for turn in game.kept:
            action = alternative(game.interaction.turns[turn], len(game.permutation))
            if action is not None:
                place = game.permutation.index(actions.LETTERS.index(action[-1]))
                alternatives[turn] = f"select {actions.LETTERS[place]}"
    whole = encode(shuffled(game.interaction, game.permutation), processor, alternatives=alternatives)
    return whole.only(game.kept)


def length(row: Encoded) -> int:
    """Tokens that a row's scores need: what stands behind the last one does not go through the model."""
    return 1 + max(max(span.predictors) for span in row.spans)


def micro_batches(encoded: Sequence[Encoded], size: int) -> Iterator[list[Encoded]]:
    """Rows in groups of `size`, longest together, so that little is padding."""
    rows = sorted(encoded, key=lambda row: (-length(row), row.interaction_id))
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


@torch.no_grad()
def references(
    model: Any, examples: Sequence[Example], processor: Any, features: VisionFeatures, config: TrainingConfig
) -> References:
    """KTO's references: logged where they are and `config.kto_reference` says so, else scored by `model` as it is."""
    rows, logged = [], {}
    pad_id = chat(processor).pad_id
    for example in examples:
        identity = tuple(range(len(example.interaction.context)))
        labels = tuple(label or None for label in example.labels)
        game = Game(example.interaction, labels, identity)
        if game.kept:
            rows.append(encode_game(game, processor, config))
        for turn in game.kept:
            p = example.interaction.turns[turn].probability
            if p is not None and config.kto_reference == "logged":
                logged[Key(example.interaction.interaction_id, turn)] = math.log(p)
    was_training = model.training
    model.eval()
    features.ready(model, [image for row in rows for image in row.images])

    def run(batch: Sequence[Encoded]) -> dict[Key, float]:
        scores = score(model, collate(batch, pad_id), features)
        return dict(zip(scores.keys, objectives.span_total(scores.logp, scores.mask).tolist(), strict=True))

    scored: dict[Key, float] = {}
    rows.sort(key=lambda row: (-length(row), row.interaction_id))
    size = partial(cores.even, most=config.micro_batch_interactions, device=model.device)
    for part in cores.each(run, within_budget(rows, size, length), model.device):
        scored |= part
    model.train(was_training)
    return scored | logged


def reference_point(scored: Sequence[SpanScores], config: TrainingConfig, reference: References) -> Tensor:
    """KTO's z0 over the alternatives of one or more passes, without gradient; a scalar."""
    longest = max(scores.logp.shape[1] for scores in scored)
    logp, mask, references_A = [], [], []
    for scores in scored:
        others = [n for n, key in enumerate(scores.keys) if key.alternative]
        more = (0, longest - scores.logp.shape[1])
        logp.append(pad(scores.logp[others], more))
        mask.append(pad(scores.mask[others], more))
        references_A += [reference[scores.keys[n]] for n in others]
    logp_AS, mask_AS = torch.cat(logp), torch.cat(mask)
    reference_A = logp_AS.new_tensor(references_A)
    return objectives.kto_kl(logp_AS, mask_AS, reference_A, length_normalised=config.length_normalised)


def turn_losses(
    scores: SpanScores,
    games: Mapping[str, Game],
    config: TrainingConfig,
    reference: References,
    z0: Tensor | None = None,
) -> Tensor:
    """Loss of each kept turn of a micro-batch, entropy term included, [K].

    Args:
        scores: of the micro-batch, with entropy and mean log-probability where the configuration weighs them.
        games: the batch's games by interaction id.
        reference: from `references`; empty but for KTO.
        z0: KTO's, where these scores are a part of the micro-batch; else it is theirs.
    """
    kept = [n for n, key in enumerate(scores.keys) if not key.alternative]
    labels = [games[scores.keys[n].interaction_id].labels[scores.keys[n].turn] for n in kept]
    logp_KS, mask_KS = scores.logp[kept], scores.mask[kept]
    labels_K = torch.tensor(labels, device=logp_KS.device)
    options: dict[str, Any] = {
        "length_normalised": config.length_normalised,
        "label_smoothing": config.label_smoothing,
        "mean_logp_NS": None if scores.mean_logp is None else scores.mean_logp[kept],
    }
    if config.objective is Objective.FFT:
        loss_K = objectives.fft_loss(logp_KS, mask_KS, **options)
    elif config.objective is Objective.RL:
        turns = [games[scores.keys[n].interaction_id].interaction.turns[scores.keys[n].turn] for n in kept]
        p_K = logp_KS.new_tensor([math.nan if turn.probability is None else turn.probability for turn in turns])
        reward_K = objectives.rewards(labels_K, config.negative_reward)
        loss_K = objectives.rl_loss(logp_KS, mask_KS, reward_K, p_K, floor=config.propensity_floor, **options)
    else:
        reference_K = logp_KS.new_tensor([reference[scores.keys[n]] for n in kept])
        loss_K = objectives.kto_loss(
            logp_KS,
            mask_KS,
            reference_K,
            labels_K > 0,
            reference_point([scores], config, reference) if z0 is None else z0,
            beta=config.kto_beta,
            desirable=config.kto_desirable,
            undesirable=config.kto_undesirable,
            **options,
        )
    if config.entropy_weight and scores.entropy is not None:
        loss_K = loss_K + objectives.entropy_term(scores.entropy[kept], mask_KS, config.entropy_weight)
    return loss_K
