"""Measure exact match on validation turns without generation, and choose a checkpoint by it (appendix B.3).

Deviations from the paper, numbered as they are cited elsewhere:
1. No generation: greedy decoding writes the reference exactly when, under teacher forcing, the most probable token at
   every position of the action, end token included, is the reference's. One packed pass scores a whole game.
2. Illegal actions are counted only where greedy decoding departs from the reference: the reference itself is legal.
3. A checkpoint is chosen by `sampled_match`, the expected exact match of an action drawn at temperature 1, as deployed:
   the mean probability of the right action. The authors draw once per turn, with suppressed tokens; here the mass on
   illegal text counts against a policy. Greedy exact match ignores how confident a policy is, which decides sampled
   games: T-KTO won 52.0% of them and the seed policy 34.3%, with the same greedy exact match (docs/log.md).

4. Where no action is the only right one, as in a chat, a turn's score is the probability per token of
   the curated reply, its geometric mean, in place of both exact match and the probability of the whole action.

Text that is no legal click in the state is illegal: `Deselect select`, a letter that is not selected, nothing at all.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from respect_core.acting.decoding import Manner, evaluating
from respect_core.acting.policy import Policy
from respect_core.interaction import Interaction, waiting
from respect_core.model import packing, threads
from respect_core.model.lora import merged
from respect_core.scenario import PER_TOKEN


@dataclass(frozen=True)
class ValidationResult:
    """Exact match over `n_turns` turns.

    `sampled_match` is the mean probability of the logged action over the full vocabulary: the exact match of actions
    drawn at temperature 1, in expectation; with deviation 4, the mean of `scores`. `illegal_actions`
    counts greedy actions that are illegal in their state; it is None if they were not counted.
    """

    exact_match: float
    sampled_match: float
    n_turns: int
    illegal_actions: int | None
    scores: Mapping[tuple[str, int], float]  # by (interaction_id, turn): whether it is right, or deviation 4


def exact_match(
    policy: Policy,
    interactions: Sequence[Interaction],
    turns: Collection[tuple[str, int]] | None = None,
    *,
    count_illegal: bool = True,
) -> ValidationResult:
    """Measure how often the policy's greedy, unconstrained action is the logged one.

    Args:
        turns: (interaction_id, turn) that count, e.g. the right ones; all with an action by default. The others are
            context.
        count_illegal: generate for the turns that do not match and count illegal actions.

    Raises:
        ValueError: a turn that is not among the interactions, or has no action; no turn at all; two interactions
            with one id.
    """
    games = packing.by_id(interactions)
    present = {(key.interaction_id, key.turn) for interaction in interactions for key in packing.keys(interaction)}
    selection = present if turns is None else set(turns)
    if not selection <= present or not selection:
        missing = sorted(selection - present)[:5]
        raise ValueError(f"no action to validate for {missing or 'any turn'} in the interactions")
    correct: dict[tuple[str, int], bool] = {}
    probability: dict[tuple[str, int], float] = {}  # of the whole action, or per token
    per_token = policy.base.scenario.criterion == PER_TOKEN
    with evaluating(policy.model):
        model = merged(policy.model)
        images = (image for name in sorted({name for name, _ in selection}) for image in games[name].context)
        features = policy.features.connected(model, images)

        def score(batch: packing.PackedBatch) -> tuple[packing.PackedBatch, Tensor, Tensor]:
            logits_MV = packing.span_logits(model, batch, features)
            targets_M1 = batch.targets.to(logits_MV.device)[:, None]
            logp_M = logits_MV.gather(1, targets_M1)[:, 0] - logits_MV.logsumexp(-1)
            return batch, logits_MV.argmax(-1).cpu(), logp_M.double().cpu()

        for batch, best_M, logp_M in threads.map_parallel(
            score, policy.packed(interactions, selection), policy.base.device
        ):
            for key, matches in zip(batch.keys, (best_M == batch.targets).split(batch.lengths), strict=True):
                correct[key.interaction_id, key.turn] = bool(matches.all())
            for key, logp_S in zip(batch.keys, logp_M.split(batch.lengths), strict=True):
                probability[key.interaction_id, key.turn] = math.exp(logp_S.mean() if per_token else logp_S.sum())
    illegal = None
    if count_illegal and not per_token:
        misses = [waiting(games[name], turn) for (name, turn), match in sorted(correct.items()) if not match]
        actions = policy.write(misses, Manner(constrained=False, temperature=0.0))
        illegal = sum(
            not policy.base.scenario.accept(action.text, game).legal
            for action, game in zip(actions, misses, strict=True)
        )
    count = len(correct)
    sampled_match = sum(probability.values()) / count
    scores = probability if per_token else correct
    return ValidationResult(sum(correct.values()) / count, sampled_match, count, illegal, scores)


@dataclass(frozen=True)
class Candidate:
    """A checkpoint and its sampled match."""

    seed: int
    step: int
    sampled_match: float


def choose(candidates: Iterable[Candidate]) -> Candidate:
    """Choose the checkpoint with the highest sampled match among all seeds (deviation 3).

    Ties go to the earlier step, then the lower seed.

    Raises:
        ValueError: no candidates.
    """
    return min(candidates, key=lambda one: (-one.sampled_match, one.step, one.seed))
