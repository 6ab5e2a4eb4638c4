"""Pack whole games into training batches: one causal pass gives every turn's action log-probability.

Deviations from the paper, numbered as they are cited elsewhere:
1. Images are shuffled once per game and epoch, not once per turn (appendix B.1): then a game's prompt only grows from
   turn to turn, and one pass over the whole game scores all its turns exactly.
2. Other actions for a turn (for KTO's KL term) are scored in the same pass, as branches: tokens at the end of the row
   that take the positions of the logged action and see only the prompt up to it and themselves.
3. The language model's head runs only where an action token is predicted.

Shapes: B rows (interactions), T tokens a row, N spans (actions with a score) over all rows, S tokens of the longest
span, M = action tokens over all spans, V vocabulary, H width. Log-probabilities in nats.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from respect_core.errors import ExpectedError
from respect_core.interaction import Interaction
from respect_core.model.base import inner
from respect_core.model.chat import chat
from respect_core.model.vision import VisionFeatures
from respect_core.scenario import Message, Scenario

Row = TypeVar("Row")

ORDINARY = 512
"""A row of at most this many tokens never counts as long."""
PASS_TOKENS = 1 << 16
"""The most tokens of a pass of several rows, padding included."""


class GameError(ExpectedError, ValueError):
    """A game cannot be scored, and a retry does not help. The message names game, turn and remedy."""

    def __init__(self, interaction_id: str, turn: int, reason: str) -> None:
        super().__init__(f"interaction {interaction_id}, turn {turn}: {reason}")
        self.interaction_id, self.turn, self.reason = interaction_id, turn, reason


class Key(NamedTuple):
    """The action of a score: turns count from 0; an alternative is an action that was not taken."""

    interaction_id: str
    turn: int
    alternative: bool = False


def keys(interaction: Interaction) -> list[Key]:
    """Return the keys of the turns with an action."""
    return [Key(interaction.interaction_id, n) for n, turn in enumerate(interaction.turns) if turn.action is not None]


def by_id(interactions: Iterable[Interaction]) -> dict[str, Interaction]:
    """Map interactions by id. Raises ValueError where two share one: their scores could not be told apart."""
    games: dict[str, Interaction] = {}
    for interaction in interactions:
        if games.setdefault(interaction.interaction_id, interaction) is not interaction:
            raise ValueError(f"two interactions have the id {interaction.interaction_id!r}; score them one at a time")
    return games


@dataclass(frozen=True)
class Span:
    """The tokens of an action, end tokens included: `targets[i]` is predicted at the row's token `predictors[i]`."""

    turn: int
    alternative: bool
    predictors: tuple[int, ...]
    targets: tuple[int, ...]

    def joined(self, other: Span) -> Span:
        """Return the span of both, for an action in several messages."""
        return replace(self, predictors=self.predictors + other.predictors, targets=self.targets + other.targets)


@dataclass(frozen=True)
class Encoded:
    """An interaction as tokens. Where the last turn has no action yet, the row ends with the generation prompt."""

    interaction_id: str
    input_ids: tuple[int, ...]  # [T]
    position_ids: tuple[int, ...]  # [T]; 0, 1, 2, ... except in branches
    images: tuple[str, ...]  # ids in prompt order
    spans: tuple[Span, ...]  # in order of turns, alternatives after all logged actions

    def only(self, turns: Collection[int]) -> Encoded:
        """Keep the spans of these turns alone; the rest stays as context."""
        return replace(self, spans=tuple(span for span in self.spans if span.turn in turns))


def encode(
    interaction: Interaction, processor: Any, scenario: Scenario, *, alternatives: Mapping[int, str] | None = None
) -> Encoded:
    """Tokenise a whole interaction, with the span of every action.

    Args:
        processor: the model's; its chat template and tokenizer decide the format.
        scenario: gives the messages.
        alternatives: another action for some turns, scored in addition to the logged one.

    Raises:
        GameError: more tokens than the base takes; or a token straddles the beginning of an action, which then cannot
            be scored alone.
    """
    talk = chat(processor)
    messages = scenario.messages(interaction)
    pieces = talk.pieces(messages)
    waiting = bool(interaction.turns) and interaction.turns[-1].action is None
    ids, ends = talk.tokens(pieces, generate=waiting)
    # Characters from the end of the text, like `ends`: unchanged by the expansion of earlier images.
    remaining = sum(map(len, pieces)) + (len(talk.generation_prompt) if waiting else 0)
    spans: list[Span] = []
    # Messages of the user beyond those of the turns were said before the first of these, and are context.
    token, turn = 0, len(interaction.turns) - sum(message["role"] == "user" for message in messages) - 1
    for message, piece in zip(messages, pieces, strict=True):
        turn += message["role"] == "user"
        if message["role"] == "assistant" and turn >= 0:  # what comes before the first utterance is context
            beginning = remaining - len(talk.generation_prompt)
            while ends[token] >= beginning:
                token += 1
            stop = ids.index(talk.end_id, token) + 1
            span = Span(turn, False, tuple(range(token - 1, stop - 1)), tuple(ids[token:stop]))
            if spans and spans[-1].turn == turn:  # the action continues after what a tool answered
                span = spans.pop().joined(span)
            spans.append(span)
            if ends[token - 1] != beginning:
                reason = "a token straddles the beginning of the action; leave the game out"
                raise GameError(interaction.interaction_id, turn, reason)
        remaining -= len(piece)
    _require_room(interaction, spans, len(ids), talk.positions)
    positions = list(range(len(ids)))
    for turn, action in sorted((alternatives or {}).items()):
        (targets,) = talk.action_tokens([action])
        first = spans[turn].predictors[0]
        branch = range(len(ids), len(ids) + len(targets) - 1)
        spans.append(Span(turn, True, (first, *branch), targets))
        ids += targets[:-1]  # nothing is predicted from the end token
        positions += range(first + 1, first + len(targets))
    return Encoded(interaction.interaction_id, tuple(ids), tuple(positions), interaction.context, tuple(spans))


def prompt(name: str, messages: Sequence[Message], processor: Any) -> Encoded:
    """Tokenise messages without images up to where the assistant's next one begins; `name` is the conversation's."""
    talk = chat(processor)
    ids, _ = talk.tokens(talk.pieces(messages), generate=True)
    return Encoded(name, tuple(ids), tuple(range(len(ids))), (), ())


def continues(prompt: Encoded, written: Sequence[int], messages: Sequence[Message], processor: Any) -> bool:
    """Return whether messages, the last of them written after the prompt, have the tokens of both, as training does."""
    talk = chat(processor)
    ids, _ = talk.tokens(talk.pieces(messages), generate=False)
    whole = [*prompt.input_ids, *written]
    return ids[: len(whole)] == whole


def _require_room(interaction: Interaction, spans: Sequence[Span], tokens: int, positions: int | None) -> None:
    """Raise GameError where a game has more tokens than the base takes positions."""
    if positions is None or tokens <= positions:
        return
    ends = [span.predictors[-1] + 1 for span in spans]
    turn = next((turn for turn, end in enumerate(ends) if end > positions), len(interaction.turns) - 1)
    reason = f"the game has {tokens} tokens, and the base takes {positions}; leave it out, or cut what was said"
    raise GameError(interaction.interaction_id, turn, reason)


def within_budget(
    rows: Sequence[Row], size: Callable[[int], int], length: Callable[[Row], int]
) -> Iterator[Sequence[Row]]:
    """Cut rows into passes, so that a few long ones neither pad the others nor multiply their memory.

    A row is long if it has more than ORDINARY tokens and more than twice the median. The others form passes as if there
    were no long ones. Long rows come first, in separate passes with at most as many tokens as a pass of the others may
    have.

    Args:
        rows: in order of length, either way; the order stays.
        size: gives the most rows of a pass for this many rows.
        length: gives the tokens of a row.
    """
    if not rows:
        return
    width = max(ORDINARY, 2 * sorted(map(length, rows))[(len(rows) - 1) // 2])
    ordinary = [row for row in rows if length(row) <= width]
    most = size(len(ordinary))
    budget = min(PASS_TOKENS, most * width)
    for alike in ([row for row in rows if length(row) > width], ordinary):
        start = longest = 0
        for stop, row in enumerate(alike):
            longest = max(longest, length(row))
            if stop > start and (stop - start == most or (stop - start + 1) * longest > budget):
                yield alike[start:stop]
                start, longest = stop, length(row)
        if alike:
            yield alike[start:]


@dataclass(frozen=True)
class PackedBatch:
    """Rows padded on the right.

    Without branches mask and positions are None: plain causal attention is exact, since no real token sees the padding
    after it, and the fastest kernels apply.
    """

    input_ids: Tensor  # [B, T]
    position_ids: Tensor | None  # [B, T]
    attention_mask: Tensor | None  # [B, 1, T, T], True where a token (third index) sees another (fourth)
    images: tuple[tuple[str, ...], ...]
    keys: tuple[Key, ...]  # [N], row by row
    lengths: tuple[int, ...]  # [N] tokens of each span
    rows: Tensor  # [M]
    predictors: Tensor  # [M]
    targets: Tensor  # [M]


def collate(encoded: Sequence[Encoded], pad: int) -> PackedBatch:
    """Collate rows, best of similar length, into a batch; `pad` is the padding token.

    Rows without a span and tokens after the last score are left out.
    """
    encoded = [row for row in encoded if row.spans]
    used = [1 + max(max(span.predictors) for span in row.spans) for row in encoded]
    width = max(used, default=0)
    ids = torch.full((len(encoded), width), pad)
    for index, row in enumerate(encoded):
        ids[index, : used[index]] = torch.tensor(row.input_ids[: used[index]])
    positions = mask = None
    if any(span.alternative for row in encoded for span in row.spans):
        positions = torch.arange(width).repeat(len(encoded), 1)
        mask = torch.ones(width, width, dtype=torch.bool).tril().repeat(len(encoded), 1, 1, 1)
        for index, row in enumerate(encoded):
            positions[index, : used[index]] = torch.tensor(row.position_ids[: used[index]])
            for span in row.spans:
                if span.alternative and len(span.predictors) > 1:
                    first, start, stop = span.predictors[0], span.predictors[1], span.predictors[-1] + 1
                    mask[index, 0, start:stop, first + 1 : start] = False  # the branch sees the prompt and itself
                    mask[index, 0, stop:, start:stop] = False  # no other token sees it
    spans = [(index, row.interaction_id, span) for index, row in enumerate(encoded) for span in row.spans]
    return PackedBatch(
        input_ids=ids,
        position_ids=positions,
        attention_mask=mask,
        images=tuple(row.images for row in encoded),
        keys=tuple(Key(name, span.turn, span.alternative) for _, name, span in spans),
        lengths=tuple(len(span.targets) for *_, span in spans),
        rows=torch.tensor([index for index, _, span in spans for _ in span.targets], dtype=torch.long),
        predictors=torch.tensor([token for *_, span in spans for token in span.predictors], dtype=torch.long),
        targets=torch.tensor([token for *_, span in spans for token in span.targets], dtype=torch.long),
    )


@dataclass(frozen=True)
class SpanScores:
    """The scores of action tokens, zero where `mask` is False. `keys[n]` is the action of row n."""

    keys: tuple[Key, ...]
    mask: Tensor  # [N, S] bool
    logp: Tensor  # [N, S] log-probability of each action token
    correct: Tensor  # [N, S] bool: whether the token is the most probable one
    entropy: Tensor | None  # [N, S] of the token distribution
    mean_logp: Tensor | None  # [N, S] mean log-probability over the vocabulary, for label smoothing


def span_logits(model: Any, batch: PackedBatch, features: VisionFeatures) -> Tensor:
    """Return logits [M, V] in fp32 at the positions that predict the batch's action tokens. Differentiable."""
    whole = inner(model)
    device = whole.device
    if not batch.keys:
        return torch.zeros(0, whole.config.get_text_config().vocab_size, device=device)
    mask = batch.attention_mask
    if mask is not None:
        lowest = torch.finfo(whole.dtype).min
        mask = torch.zeros(mask.shape, dtype=whole.dtype, device=device).masked_fill_(~mask.to(device), lowest)
    hidden_BTH = whole.model(
        input_ids=batch.input_ids.to(device),
        position_ids=None if batch.position_ids is None else batch.position_ids.to(device),
        attention_mask=mask,
        use_cache=False,
        **features.arguments(model, batch.images),
    ).last_hidden_state
    hidden_MH = hidden_BTH[batch.rows.to(device), batch.predictors.to(device)]
    return whole.get_output_embeddings()(hidden_MH).float()


def score(
    model: Any, batch: PackedBatch, features: VisionFeatures, *, with_entropy: bool = False, with_mean: bool = False
) -> SpanScores:
    """Score every action token of a batch in one pass. Differentiable.

    Args:
        model: a view of the features' base, with or without adapters, in training or evaluation mode.
        with_entropy: compute `entropy` too.
        with_mean: compute `mean_logp` too.
    """
    logp_MV = span_logits(model, batch, features).log_softmax(-1)
    targets_M = batch.targets.to(logp_MV.device)
    mask_NS = span_mask(batch).to(logp_MV.device)

    def spread(values_M: Tensor) -> Tensor:
        return values_M.new_zeros(mask_NS.shape).masked_scatter(mask_NS, values_M)

    return SpanScores(
        keys=batch.keys,
        mask=mask_NS,
        logp=spread(logp_MV.gather(1, targets_M[:, None]).squeeze(1)),
        correct=spread(logp_MV.argmax(-1) == targets_M),
        entropy=spread(-(logp_MV.exp() * logp_MV).sum(-1)) if with_entropy else None,
        mean_logp=spread(logp_MV.mean(-1)) if with_mean else None,
    )


def span_mask(batch: PackedBatch) -> Tensor:
    """Return which places [N, S] of a span table hold a token; row by row they are the M action tokens in order."""
    lengths = torch.tensor(batch.lengths, dtype=torch.long)
    return torch.arange(max(batch.lengths, default=0)) < lengths[:, None]
