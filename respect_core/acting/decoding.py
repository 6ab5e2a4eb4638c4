"""Write actions after prompts: batched decoding with cached keys and values, free or constrained.

Deviations from the paper, numbered as they are cited elsewhere:
1. Randomness comes from seed, interaction and turn alone, so that a game does not depend on the other games that are
   played at the same time.
2. Keys and values of a game's earlier turns are cached, since its prompt only grows.

Shapes: B rows, T new tokens, P cached tokens, V vocabulary, H width, A candidates, in N blocks of K.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import Cache

from respect_core.acting.kv_cache import PrefixCache
from respect_core.errors import ExpectedError
from respect_core.interaction import Interaction
from respect_core.model import packing
from respect_core.model.base import inner
from respect_core.model.chat import Chat
from respect_core.model.vision import VisionFeatures
from respect_core.scenario import Node, Scenario


class NotANumberError(ExpectedError, ArithmeticError):
    """A policy gives probabilities that are not numbers, so that whatever it wrote means nothing."""


@dataclass(frozen=True)
class Written:
    """Text that the model wrote after the generation prompt, without the end token, and its log-probability.

    `ended` is False where it reached the limit before the end token.
    """

    text: str
    logp: float
    ended: bool = True


@dataclass(frozen=True)
class Manner:
    """Settings of decoding.

    `temperature` 0 takes the most probable token, and log-probabilities are then those at 1. `max_new_tokens` of free
    text: None for the scenario's.
    """

    constrained: bool = True
    temperature: float = 1.0
    seed: int = 0
    max_new_tokens: int | None = None


Prefilled = tuple[Tensor, Cache, Tensor, Tensor]
"""What `Writer.prefill` returns."""


@dataclass(frozen=True)
class Writer:
    """A model and everything needed to write with it."""

    model: Any
    chat: Chat
    scenario: Scenario
    features: VisionFeatures
    cache: PrefixCache
    batch_size: int = 64

    def write(self, interactions: Sequence[Interaction], manner: Manner) -> list[Written]:
        """Write the next action's text for each interaction, in order.

        Raises:
            ValueError: an interaction that waits for no action.
        """
        for interaction in interactions:
            if not interaction.turns or interaction.turns[-1].action is not None:
                raise ValueError(f"interaction {interaction.interaction_id} waits for no action: its last turn has one")
        encoded = [packing.encode(interaction, self.chat.processor, self.scenario) for interaction in interactions]
        order = sorted(range(len(encoded)), key=lambda row: len(encoded[row].input_ids))
        result: dict[int, Written] = {}
        for chunk in packing.within_budget(order, lambda _: self.batch_size, lambda row: len(encoded[row].input_ids)):
            # Rows with cached keys and values need no images; the others do. The cache may change with each pass.
            cached = [row for row in chunk if self.cache.kept(encoded[row])]
            uncached = [row for row in chunk if row not in set(cached)]
            for rows in filter(None, (cached, uncached)):
                with evaluating(self.model):
                    batch = [encoded[row] for row in rows], [interactions[row] for row in rows]
                    result.update(zip(rows, self._write(*batch, manner), strict=True))
        return [result[row] for row in range(len(interactions))]

    def _write(
        self, encoded: Sequence[packing.Encoded], interactions: Sequence[Interaction], manner: Manner
    ) -> list[Written]:
        model = inner(self.model)
        logits_BV, cache, mask_BT, positions_B = self.prefill(encoded)
        nodes: list[Node] | None = None
        if manner.constrained:
            roots = [self.scenario.constraint(self.chat, one) for one in interactions]
            nodes = [root for root in roots if root is not None] or None  # free text has none
        generators = [_generator(manner.seed, one) for one in interactions]
        tokens: list[list[int]] = [[] for _ in interactions]
        logp = [0.0] * len(interactions)
        live = list(range(len(interactions)))
        while True:
            uniform = torch.cat([torch.rand(1, generator=generators[row], dtype=torch.float64) for row in live])
            allowed = [nodes[row] for row in live] if nodes else None
            next_tokens, next_logp = self._pick(logits_BV, allowed, uniform, manner.temperature)
            for row, token, value in zip(live, next_tokens, next_logp, strict=True):
                tokens[row].append(token)
                logp[row] += value
                if nodes:
                    nodes[row] = nodes[row][token]
            limit = None if nodes else manner.max_new_tokens or self.scenario.max_new_tokens
            unfinished = [
                index
                for index, row in enumerate(live)
                if tokens[row][-1] != self.chat.end_id and len(tokens[row]) != limit
            ]
            if not unfinished:
                break
            if len(unfinished) < len(live):
                keep = torch.tensor(unfinished, device=mask_BT.device)
                cache.batch_select_indices(keep)
                mask_BT, positions_B, live = mask_BT[keep], positions_B[keep], [live[index] for index in unfinished]
            mask_BT = torch.cat([mask_BT, mask_BT.new_ones(len(live), 1)], dim=1)
            hidden_B1H = model.model(
                input_ids=torch.tensor([[tokens[row][-1]] for row in live], device=model.device),
                attention_mask=mask_BT,
                position_ids=positions_B[:, None],
                past_key_values=cache,
                use_cache=True,
            ).last_hidden_state
            logits_BV = model.get_output_embeddings()(hidden_B1H[:, -1]).float()
            positions_B = positions_B + 1
        ended = [row[-1] == self.chat.end_id for row in tokens]
        return [Written(self._text(row), value, end) for row, value, end in zip(tokens, logp, ended, strict=True)]

    def _pick(
        self, logits_BV: Tensor, allowed: Sequence[Node] | None, uniform_B: Tensor, temperature: float
    ) -> tuple[list[int], list[float]]:
        """Return next tokens and their log-probabilities among the candidates.

        These are the allowed tokens, or all but the image token (the model would look for an image to put there).
        """
        if allowed is None:
            if self.chat.image_id is not None:
                logits_BV[:, self.chat.image_id] = -torch.inf
            chosen_B, logp_B = choose(logits_BV, uniform_B, temperature)
            return chosen_B.tolist(), logp_B.tolist()
        candidates_BA = padded([list(node) for node in allowed])
        chosen_B, logp_B = choose(among(logits_BV, candidates_BA), uniform_B, temperature)
        return candidates_BA.gather(1, chosen_B[:, None]).squeeze(1).tolist(), logp_B.tolist()

    def prefill(self, encoded: Sequence[packing.Encoded]) -> Prefilled:
        """Run the part of the prompts that is not in the cache.

        Returns:
            logits [B, V] after each prompt, the keys and values, which of them are real [B, P + T], and the
            position of the next token [B].
        """
        model = inner(self.model)
        device = model.device
        past, starts = self.cache.load(encoded)
        P = max(starts)
        new = [row.input_ids[start:] for row, start in zip(encoded, starts, strict=True)]
        lengths_B = torch.tensor([len(row) for row in new], device=device)
        starts_B = torch.tensor(starts, device=device)
        ids_BT = padded(new, self.chat.pad_id).to(device)
        steps_T = torch.arange(ids_BT.shape[1], device=device)
        mask_BT = steps_T < lengths_B[:, None]
        mask_BT = torch.cat([torch.arange(P, device=device) >= P - starts_B[:, None], mask_BT], dim=1)
        hidden_BTH = model.model(
            input_ids=ids_BT,
            # Without cached tokens all padding is on the right, where causal attention does not look.
            attention_mask=mask_BT if P else None,
            position_ids=starts_B[:, None] + steps_T,
            past_key_values=past,
            use_cache=True,
            **({} if P else self.features.arguments(self.model, [row.images for row in encoded])),
        ).last_hidden_state
        self.cache.store(encoded, past, starts)
        last_BH = hidden_BTH[torch.arange(len(new), device=device), lengths_B - 1]
        return model.get_output_embeddings()(last_BH).float(), past, mask_BT, starts_B + lengths_B

    def prefill_in_parts(self, row: packing.Encoded, part: int) -> Iterator[Prefilled | None]:
        """Run a prompt without images, `part` tokens at a time: yield None after each part, and what `prefill` returns.

        Whoever runs it may do something else between two parts, and never run the rest.
        """
        model = inner(self.model)
        past, (start,) = self.cache.load([row])
        for begin in range(start, len(row.input_ids), part):
            stop = min(begin + part, len(row.input_ids))
            hidden_1TH = model.model(
                input_ids=torch.tensor([row.input_ids[begin:stop]], device=model.device),
                position_ids=torch.arange(begin, stop, device=model.device)[None],
                past_key_values=past,
                use_cache=True,
            ).last_hidden_state
            if stop < len(row.input_ids):
                yield None
        self.cache.store([row], past, [start])
        length_1 = torch.tensor([len(row.input_ids)], device=model.device)
        mask_1P = torch.ones(1, len(row.input_ids), dtype=torch.bool, device=model.device)
        yield model.get_output_embeddings()(hidden_1TH[:, -1]).float(), past, mask_1P, length_1

    def _text(self, tokens: Sequence[int]) -> str:
        tokens = tokens[:-1] if tokens[-1] == self.chat.end_id else tokens
        return self.chat.processor.tokenizer.decode(tokens).strip()


def _generator(seed: int, interaction: Interaction) -> torch.Generator:
    name = f"{seed} {interaction.interaction_id} {len(interaction.turns)}"
    return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(name.encode()).digest()[:7]))


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Put the model in evaluation mode without gradients, and restore its mode afterwards."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


def choose(scores: Tensor, uniform: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Pick one of A candidates per row: index [B] and log-probability [B], both on the CPU.

    Args:
        scores: [B, A] logits; -inf where there is no candidate.
        uniform: [B] in [0, 1), the randomness.
        temperature: 0 for the best candidate; log-probabilities are then those at 1.
    """
    if scores.shape[-1] > _MANY:
        return _choose_of_many(scores, uniform, temperature)
    logp_BA = (scores / (temperature or 1.0)).log_softmax(-1).double().cpu()
    if temperature:
        below_BA = logp_BA.exp().cumsum(-1)
        # 1 - u lies in (0, 1], so that a candidate of probability zero is never picked.
        chosen_B = (below_BA < (1 - uniform[:, None]) * below_BA[:, -1:]).sum(-1)
    else:
        chosen_B = logp_BA.argmax(-1)
    return chosen_B, logp_BA.gather(1, chosen_B[:, None]).squeeze(1)


_MANY, _BLOCK = 16_384, 256


def _choose_of_many(scores: Tensor, uniform: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Pick as `choose` does, first a block of candidates and then one of them.

    Cumulative sums over a large vocabulary in double precision would take as long as the model's own pass.
    """
    logp_BA = (scores / (temperature or 1.0)).log_softmax(-1)
    if not temperature:
        chosen_B = logp_BA.argmax(-1)
    else:
        p_BA = torch.nn.functional.pad(logp_BA.exp(), (0, -logp_BA.shape[-1] % _BLOCK))
        p_BNK = p_BA.unflatten(-1, (-1, _BLOCK))
        below_BN = p_BNK.sum(-1, dtype=torch.float64).cumsum(-1)
        # As in `choose`, so that a block or candidate of probability zero is never picked.
        drawn_B1 = (1 - uniform.to(scores.device))[:, None] * below_BN[:, -1:]
        block_B1 = (below_BN < drawn_B1).sum(-1, keepdim=True).clamp(max=below_BN.shape[-1] - 1)
        before_B1 = torch.where(block_B1 > 0, below_BN.gather(1, (block_B1 - 1).clamp(min=0)), 0.0)
        inside_BK = p_BNK[torch.arange(len(scores), device=scores.device), block_B1[:, 0]].double().cumsum(-1)
        rest_B1 = (drawn_B1 - before_B1).minimum(inside_BK[:, -1:])
        chosen_B = block_B1[:, 0] * _BLOCK + (inside_BK < rest_B1).sum(-1)
    return chosen_B.cpu(), logp_BA.gather(1, chosen_B[:, None]).squeeze(1).double().cpu()


def among(logits: Tensor, candidates: Tensor) -> Tensor:
    """Select the logits [B, A] of candidates [B, A] out of [B, V]; -inf where a candidate is -1 (padding)."""
    candidates = candidates.to(logits.device)
    return logits.gather(1, candidates.clamp(min=0)).masked_fill(candidates < 0, -torch.inf)


def padded(rows: Sequence[Sequence[int]], value: int = -1) -> Tensor:
    """Return the rows as a tensor [rows, longest], padded on the right."""
    width = max(map(len, rows))
    return torch.tensor([[*row, *[value] * (width - len(row))] for row in rows])
