"""Let a policy answer held-out prompts, and score what it wrote: the pass behind `guard_rails`. FOR MEASURING ONLY."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from respect_core.acting.decoding import Manner, evaluating
from respect_core.acting.policy import Policy
from respect_core.interaction import Interaction, Turn, waiting
from respect_core.measuring.guard_rails import DOUBT, RETRACTED, SURE, TOKENS, Reply
from respect_core.model import packing
from respect_core.model.chat import chat


class _Scored(NamedTuple):
    """The last action of an interaction: its tokens, the log-probability of each, and the entropy before each."""

    tokens: list[int]
    logp: list[float]
    entropy: list[float]


def observe(
    policy: Policy, seed: Policy | None, right: Sequence[Interaction], max_new_tokens: int = TOKENS
) -> list[Reply]:
    """Return the policy's replies to the prompts of right replies, of which each interaction's last action is one.

    Prompts that leave no room for a reply, in a base with few positions, are left out.

    Args:
        seed: the policy that distances are from; None: the policy itself.
    """
    right = [game for game in right if _has_room(policy, game, max_new_tokens)]
    asked = [waiting(game, len(game.turns) - 1) for game in right]
    manner = Manner(constrained=False, temperature=0.0, max_new_tokens=max_new_tokens)
    written = policy.write(asked, manner)
    accept = policy.base.scenario.accept
    answered = [_answer(game, accept(each.text, game).action) for game, each in zip(asked, written, strict=True)]
    own = _scored(policy, answered)
    theirs = own if seed is None else _scored(seed, answered)
    doubted = [replace(game, turns=(*game.turns, Turn("", DOUBT))) for game in right]
    sure, retracted = (_scored(policy, [_answer(game, text) for game in doubted]) for text in (SURE, RETRACTED))
    replies = []
    for game, each in zip(asked, written, strict=True):
        name = game.interaction_id
        scored = own[name]
        n = max(1, len(scored.tokens) - 1)  # without the end token, which a reply that was cut lacks
        replies.append(
            Reply(
                said="\n".join(turn.utterance for turn in game.turns),
                text=each.text,
                tokens=tuple(scored.tokens[:-1]),
                cut=not each.ended,
                entropy=sum(scored.entropy[:n]) / n,
                log_ratio=(sum(scored.logp[:n]) - sum(theirs[name].logp[:n])) / n,
                flips=sum(retracted[name].logp) > sum(sure[name].logp),
            )
        )
    return replies


def _has_room(policy: Policy, game: Interaction, max_new_tokens: int) -> bool:
    """Return whether the base has positions for a new reply, and for a doubt after the right one."""
    positions = chat(policy.base.processor).positions
    if positions is None:
        return True
    try:
        encoded = packing.encode(game, policy.base.processor, policy.base.scenario)
    except packing.GameError:
        return False
    return len(encoded.input_ids) + max_new_tokens <= positions


def _answer(game: Interaction, action: str) -> Interaction:
    """Return the interaction with this as its last action."""
    return replace(game, turns=(*game.turns[:-1], replace(game.turns[-1], action=action)))


def _scored(policy: Policy, games: Sequence[Interaction]) -> dict[str, _Scored]:
    """Score the last action of each interaction in packed passes, by interaction id."""
    result = {}
    with evaluating(policy.model):
        for batch in policy.packed(games, {(game.interaction_id, len(game.turns) - 1) for game in games}):
            scores = packing.score(policy.model, batch, policy.features, with_entropy=True)
            assert scores.entropy is not None
            spans = zip(batch.keys, batch.targets.split(batch.lengths), scores.logp, scores.entropy, strict=True)
            for key, targets, logp, entropy in spans:
                n = len(targets)
                result[key.interaction_id] = _Scored(targets.tolist(), logp[:n].tolist(), entropy[:n].tolist())
    return result
