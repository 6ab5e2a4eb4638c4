"""Validation, turns per second: exact match of a validation set against greedy generation in batches.

The peer is transformers' `generate`, keys and values cached within a call, on left-padded batches of one prompt per
turn, similar lengths together, at the batch size that is fastest for it. It writes no more tokens than the longest
action of the batch has: what goes on is wrong anyway. Both fold the adapter in first, on the clock, as every checkpoint
has to. On every turn both must give the same verdict, and the same tokens up to the first wrong one. Our vision
features and the games' tokens are cached, as they are from the second checkpoint of a round on.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import torch

from respect_core import profiles
from respect_core.acting.decoding import evaluating
from respect_core.acting.policy import Policy
from respect_core.interaction import Interaction, interactions
from respect_core.learning.validation import exact_match
from respect_core.log.records import turn_rows
from respect_core.model import packing
from respect_core.model.base import attach_lora
from respect_core.model.chat import chat
from respect_core.model.lora import merged
from respect_core.scenarios.multiref import contexts, speakers
from tests.bench import games, models, peers
from tests.bench.flops import Shape
from tests.bench.record import Record, case, compare

BAR = 10.0
BATCHES = (16, 64)
PUSH = 0.01  # of the adapters; more of it, and the base gets nothing right any more

Told = dict[tuple[str, int], tuple[int, ...]]
"""(interaction_id, turn) -> the greedy tokens, up to the first that the logged action does not have."""


@case("validation")
def validation(quick: bool) -> Iterator[Record]:
    """Games of a length, and the whole validation set of the profile `tiny`, whose games are short."""
    if quick:
        yield _measure("tiny", 6, _played(8, 6), 16, repeats=3)
        return
    batch = _best_batch()
    yield _measure("tiny", None, human_games(), batch, repeats=2)
    for turns in games.LENGTHS:
        yield _measure("tiny", turns, _played(16, turns), batch, repeats=3)
    for turns in games.LENGTHS:
        yield _measure("135m", turns, _played(1, turns), batch, repeats=1)


@lru_cache(maxsize=1)
def human_games() -> tuple[Interaction, ...]:
    """The validation set of the profile `tiny`: games between people on unseen images."""
    pool, count = models.pictures().pool, profiles.tiny().validation_games
    factory = speakers.speaker_factory(speakers.values_of(pool.tangrams))
    logs = speakers.human_games(contexts.sample(pool.main, count, "validation"), factory, seed="validation")
    return tuple(interactions(row for log in logs for row in turn_rows(log)))


def _played(count: int, turns: int) -> tuple[Interaction, ...]:
    return tuple(example.interaction for example in games.examples(count, turns))


def _best_batch() -> int:
    policy, seconds = _policy("tiny"), {}
    for batch in BATCHES:
        peer = Generating("tiny", policy.model, _played(16, games.LENGTHS[1]), batch)
        peer.tell()  # warm-up
        started = time.perf_counter()
        peer.tell()
        seconds[batch] = time.perf_counter() - started
    return min(seconds, key=seconds.__getitem__)


def _policy(size: str) -> Policy:
    base = models.base(size)
    model: Any = attach_lora(base, models.lora(size), seed=0)
    return Policy(base, models.push(model, PUSH).eval(), models.features(size))


class Generating:
    """The peer."""

    def __init__(self, size: str, model: Any, played: Sequence[Interaction], batch: int) -> None:
        self.base, self.model, self.batch = models.base(size), model, batch
        self.chat = chat(self.base.processor)
        ones = [(game.interaction_id, n, games.one(game, n)) for game in played for n in range(len(game.turns))]
        ones.sort(key=lambda each: len(peers.prompt_text(each[2], self.base.processor)))
        self.turns, self.shape = ones, Shape.of(self.base.model)
        self.tokens, self.flops = 0, 0.0

    @torch.no_grad()
    def tell(self) -> Told:
        """What `generate` writes."""
        model, result = merged(self.model), {}
        self.tokens, self.flops = 0, 0.0
        for start in range(0, len(self.turns), self.batch):
            rows = self.turns[start : start + self.batch]
            wanted = self.chat.action_tokens([one.action for *_, one in rows])
            inputs = peers.prompts([one for *_, one in rows], self.base.processor)
            written = model.generate(
                **inputs,
                max_new_tokens=max(map(len, wanted)),
                do_sample=False,
                eos_token_id=self.chat.end_id,
                pad_token_id=self.chat.pad_id,
            )
            width, images = inputs["input_ids"].shape[1], 10 * len(rows)
            for (name, number, _), ids, action in zip(rows, written[:, width:].tolist(), wanted, strict=True):
                result[name, number] = _until_wrong(ids, action)
            lengths = [written.shape[1] - 1] * len(rows)
            new = len(rows) * (written.shape[1] - width)
            self.tokens += sum(lengths)
            self.flops += self.shape.forward(lengths, logits=new, connected=images, seen=images)
        return result


def _until_wrong(tokens: Sequence[int], action: Sequence[int]) -> tuple[int, ...]:
    wrong = (place for place, (one, other) in enumerate(zip(tokens, action, strict=False)) if one != other)
    return tuple(tokens[: next(wrong, len(action)) + 1][: len(action)])


def _tell(policy: Policy, played: Sequence[Interaction]) -> Told:
    """What a packed pass finds most probable: the tokens behind `exact_match`."""
    result: Told = {}
    with evaluating(policy.model):
        for batch in policy.packed(played):
            best_M = packing.span_logits(policy.model, batch, policy.features).argmax(-1)
            spans = zip(batch.keys, best_M.split(batch.lengths), batch.targets.split(batch.lengths), strict=True)
            result |= {(key[0], key[1]): _until_wrong(best.tolist(), action.tolist()) for key, best, action in spans}
    return result


def _check_equal(policy: Policy, played: Sequence[Interaction], peer: Generating, size: str) -> str:
    """Verdicts and tokens of both sides. The tokens of ours are computed with the adapter unmerged.

    Raises:
        AssertionError: they differ, or the trained base has not been both right and wrong.
    """
    mine, theirs = _tell(policy, played), peer.tell()
    different = [key for key in mine if mine[key] != theirs[key]]
    assert not different, f"tokens differ on {len(different)} of {len(mine)} turns: {different[:5]}"
    talk = chat(policy.base.processor)
    wanted = {
        (game.interaction_id, number): tokens
        for game in played
        for number, tokens in enumerate(talk.action_tokens([str(turn.action) for turn in game.turns]))
    }
    right = dict(exact_match(policy, played, count_illegal=False).scores)
    assert right == {key: tokens == wanted[key] for key, tokens in theirs.items()}, "verdicts differ"
    assert size != "tiny" or 0 < sum(right.values()) < len(right), f"{sum(right.values())} of {len(right)} are right"
    return f"all {len(right)} verdicts and first wrong tokens the same, {sum(right.values())} right"


def _measure(size: str, turns: int | None, played: Sequence[Interaction], batch: int, *, repeats: int) -> Record:
    policy, shape = _policy(size), Shape.of(models.base(size).model)
    peer = Generating(size, policy.model, played, batch)

    equality = _check_equal(policy, played, peer, size)
    tokens, flops = 0, len({image for game in played for image in game.context}) * shape.connect()
    for packed in policy.packed(played):
        lengths = [packed.input_ids.shape[1]] * packed.input_ids.shape[0]
        tokens += sum(lengths)
        flops += shape.forward(lengths, logits=len(packed.targets))
    return compare(
        "validation",
        size,
        turns,
        ours=lambda: exact_match(policy, played, count_illegal=False),
        peer=peer.tell,
        work=len(peer.turns),
        unit="turns/s",
        peer_name=f"generate, batches of {batch}",
        bar=BAR,
        equality=equality,
        tokens=(tokens, peer.tokens),
        flops=(flops, peer.flops),
        repeats=repeats,
        warm_up=False,
    )
