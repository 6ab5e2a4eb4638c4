"""Act with a policy, a base model with an adapter, and compute how probable an action was.

Deviations from the paper, numbered as they are cited elsewhere:
1. Constrained decoding writes canonical legal actions only and records their exact renormalised probability
   (constrain.py, 1). `constrained=False` is the paper's free generation of up to 10 tokens: text that is no legal
   action is counted and repaired as in the published code.

Shapes: M action tokens over all turns of a batch, V vocabulary, A candidates.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import peft
import torch
from torch import Tensor

from respect_core.acting.decoding import Manner, NotANumberError, Writer, Written, among, evaluating, padded
from respect_core.acting.kv_cache import PrefixCache, default_budget
from respect_core.acting.listener import Act
from respect_core.interaction import Interaction, waiting
from respect_core.model import packing, threads
from respect_core.model.base import Base, load_adapter
from respect_core.model.chat import chat
from respect_core.model.lora import merged
from respect_core.model.vision import VisionFeatures
from respect_core.scenario import Node

SCORED = 16
"""Most interactions in one packed pass: few, so that they are of similar length and need little padding."""


class Policy:
    """A policy, which is a listener (respect_core.acting.listener.Listener).

    Args:
        base, features: the base model and its vision features.
        adapter: a saved adapter, a model that is being trained (a view of `base`), or None for the base alone.
        temperature: of sampling; 0 takes the most probable token, and probabilities are then those at 1.
        constrained: see deviation 1.
        seed: of the policy's own randomness. An act depends on it, the interaction's id and the turn alone.
        batch_size: interactions in one pass.
        cache_bytes: memory for keys and values of games in play; None: as `kv_cache.default_budget` says.
    """

    def __init__(
        self,
        base: Base,
        adapter: Path | peft.PeftModel | None,
        features: VisionFeatures,
        *,
        temperature: float = 1.0,
        constrained: bool = True,
        seed: int = 0,
        batch_size: int = 64,
        cache_bytes: int | None = None,
    ) -> None:
        self.base = base
        self.features = features
        self.model: Any = merged(load_adapter(base, adapter)) if isinstance(adapter, Path) else adapter or base.model
        self.manner = Manner(constrained, temperature, seed)
        self.batch_size = batch_size
        self.counts: Counter[str] = Counter()  # acts, illegal
        self._chat = chat(base.processor)
        # The weights of a model in training change, and cached keys and values would be out of date.
        budget = default_budget(base.device) if cache_bytes is None else cache_bytes
        cache = PrefixCache(0 if isinstance(adapter, peft.PeftModel) else budget)
        self.writer = Writer(self.model, self._chat, base.scenario, features, cache, batch_size)

    def act(self, interactions: Sequence[Interaction]) -> list[Act]:
        """Return one act per interaction, in order; the last turn of each has action None.

        An illegal act (unconstrained only) is repaired and counted in `counts["illegal"]`; its probability is that
        of the text.

        Raises:
            ValueError: an interaction that waits for no action.
            NotANumberError: the policy gives no probabilities.
        """
        acts = []
        for interaction, written in zip(interactions, self.write(interactions, self.manner), strict=True):
            action, legal = self.base.scenario.accept(written.text, interaction)
            self.counts.update(acts=1, illegal=not legal)
            if math.isnan(written.logp):
                raise NotANumberError("the policy gives probabilities that are not numbers; roll it back")
            logp = min(0.0, written.logp)
            free = self.base.scenario.free_text
            acts.append(Act(action, max(math.exp(logp), 1e-300), legal, logp if free else None))
        return acts

    def write(self, interactions: Sequence[Interaction], manner: Manner) -> list[Written]:
        """Write the next action's text in each interaction: `act` without the repair. Raises ValueError as `act`."""
        return self.writer.write(interactions, manner)

    def log_probabilities(self, interactions: Sequence[Interaction]) -> list[list[float]]:
        """Return log pi(a_t | x_t) of every turn with an action, over the whole vocabulary.

        Raises:
            ValueError: two interactions share an id.
        """
        packing.by_id(interactions)
        result: dict[packing.Key, float] = {}
        with evaluating(self.model):
            self._prepare(interactions)
            score = partial(packing.score, self.model, features=self.features)
            for scores in threads.map_parallel(score, self.packed(interactions), self.base.device):
                result.update(zip(scores.keys, scores.logp.double().sum(1).tolist(), strict=True))
        return [[result[key] for key in packing.keys(interaction)] for interaction in interactions]

    def probabilities(self, interactions: Sequence[Interaction]) -> list[list[float | None]]:
        """Return p as `act` would have logged it for every turn with an action: renormalised over the allowed texts.

        None for an action that constrained decoding cannot write, such as "nothing".

        Raises:
            ValueError: two interactions share an id.
        """
        games = packing.by_id(interactions)
        result: dict[packing.Key, float] = {}
        with evaluating(self.model):
            self._prepare(interactions)

            def logits(batch: packing.PackedBatch) -> tuple[packing.PackedBatch, Tensor]:
                return batch, packing.span_logits(self.model, batch, self.features)

            for batch, logits_MV in threads.map_parallel(logits, self.packed(interactions), self.base.device):
                roots = [
                    self.base.scenario.constraint(self._chat, waiting(games[key.interaction_id], key.turn))
                    for key in batch.keys
                ]
                candidates_MA = self._candidates(batch, roots, logits_MV.shape[1])
                is_target_MA = candidates_MA == batch.targets[:, None]
                scores_MA = among(logits_MV, candidates_MA) / (self.manner.temperature or 1.0)
                logp_MA = scores_MA.log_softmax(-1).double().cpu()
                probability_M = torch.where(is_target_MA, logp_MA.exp(), 0.0).sum(-1)
                products = [float(span.prod()) for span in probability_M.split(batch.lengths)]
                result.update((key, p) for key, p in zip(batch.keys, products, strict=True) if p > 0)
        return [[result.get(key) for key in packing.keys(interaction)] for interaction in interactions]

    @staticmethod
    def _candidates(batch: packing.PackedBatch, roots: Sequence[Node | None], vocabulary: int) -> Tensor:
        """Return the tokens allowed at each action token [M, A]: all of V in free text, none after an illegal one."""
        allowed: list[Sequence[int]] = []
        tokens = iter(batch.targets.tolist())
        for root, length in zip(roots, batch.lengths, strict=True):
            node = root
            for _ in range(length):
                allowed.append(range(vocabulary) if node is None else list(node))
                token = next(tokens)
                node = None if node is None else node.get(token, {})
        return padded(allowed)

    def _prepare(self, interactions: Sequence[Interaction]) -> None:
        """Compute once, before several threads start, the features that they share."""
        self.features.ready(self.model, (image for game in interactions for image in game.context))

    def packed(
        self, interactions: Sequence[Interaction], turns: Collection[tuple[str, int]] | None = None
    ) -> Iterator[packing.PackedBatch]:
        """Yield batches of whole interactions of similar length, as `packing.within_budget` cuts them.

        Args:
            turns: (interaction_id, turn) to score; all with an action by default.
        """
        encoded = [_encoded(interaction, self.base) for interaction in interactions]
        if turns is not None:
            numbers: dict[str, set[int]] = {}
            for name, turn in turns:
                numbers.setdefault(name, set()).add(turn)
            encoded = [row.only(numbers.get(row.interaction_id, ())) for row in encoded]
        encoded = sorted((row for row in encoded if row.spans), key=lambda row: len(row.input_ids))
        size = partial(threads.batch_size, most=min(SCORED, self.batch_size), device=self.base.device)
        for rows in packing.within_budget(encoded, size, lambda row: len(row.input_ids)):
            yield packing.collate(rows, self._chat.pad_id)


@lru_cache(maxsize=512)
def _encoded(interaction: Interaction, base: Base) -> packing.Encoded:
    """Encode an interaction; cached, because the same games are validated at every checkpoint."""
    return packing.encode(interaction, base.processor, base.scenario)
