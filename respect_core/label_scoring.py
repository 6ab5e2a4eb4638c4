"""Log-probabilities of label words after prompts: what stands behind the feedback decoder (section 4.1).

Deviations from the paper:

1. The paper lets the model generate a word and reads it. Here each label's log-probability is computed: nothing to
   parse, a score to put a threshold on, and one forward pass instead of one per generated token.
2. The start that all prompts share (instructions, examples) goes through the model once; its keys and values are
   reused by every batch. The result is the same up to rounding (tests/test_feedback.py).

Shape legend: B prompts of a batch, S tokens after the shared prefix, L labels, V vocabulary, D width.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from respect_core.local_models import LocalModel

Progress = Callable[[int, int], None]
"""Called after each batch with the number of distinct prompts done, and of all."""


class LabelError(ValueError):
    """Label words that cannot be told apart, or that do not stand on their own after the prompt."""


class LabelScorer:
    """Scores label words after prompts, with one model.

    Args:
        local: the model.
        token_budget: most tokens (padding included, shared prefix not) that go through the model at once.
    """

    def __init__(self, local: LocalModel, token_budget: int = 1024) -> None:
        self.model, self.tokenizer = local.model, local.tokenizer
        self.token_budget = token_budget
        self._kept: tuple[list[int], Any] = [], None  # the last prefix, and its keys and values

    def score(
        self,
        prompts: Sequence[str],
        words: Sequence[str],
        samples: Sequence[str] = (),
        progress: Progress | None = None,
    ) -> Tensor:
        """Log-probability of each word after each prompt, [prompts, L] in float32 on the CPU.

        A word is scored by all its tokens. Identical prompts are scored once; what else is in `prompts`, and in
        which order, changes a result by rounding at most, and its order by nothing at all.

        Args:
            samples: further texts made by the same template. The shared prefix is what all prompts and samples
                start with, so two unlike samples keep it the same from call to call.

        Raises:
            LabelError: see there.
            ValueError: a prompt longer than the model's context.
        """
        if not prompts:
            return torch.empty(0, len(words))
        tokens = {text: self._tokens(text) for text in prompts}
        labels = self._labels(prompts[0], words)
        order = sorted(tokens, key=lambda text: (len(tokens[text]), text))
        self._check_length(len(tokens[order[-1]]) + max(map(len, labels)))
        shared = _common_start([*tokens.values(), *map(self._tokens, samples)])
        start = min(len(shared), len(tokens[order[0]]) - 1)  # at least one token is left to every prompt
        scores: dict[str, Tensor] = {}
        with torch.inference_mode():
            cache = self._prefill(shared[:start])
            for batch in self._batches(order, [len(tokens[text]) - start for text in order]):
                found = self._score_batch([tokens[text][start:] for text in batch], labels, start, cache)
                scores.update(zip(batch, found, strict=True))
                if progress:
                    progress(len(scores), len(order))
        return torch.stack([scores[text] for text in prompts])

    # --- tokens -------------------------------------------------------------------------------------------------

    def _tokens(self, text: str) -> list[int]:
        begun = bool(self.tokenizer.bos_token) and text.startswith(str(self.tokenizer.bos_token))
        return list(self.tokenizer(text, add_special_tokens=not begun).input_ids)

    def _labels(self, prompt: str, words: Sequence[str]) -> list[list[int]]:
        """The tokens of each word as they follow the prompt, after a space unless the prompt ends in one."""
        before = self._tokens(prompt)
        labels = []
        for word in words:
            whole = self._tokens(prompt + word if prompt[-1:].isspace() else f"{prompt} {word}")
            if not word.strip() or whole[: len(before)] != before or len(whole) == len(before):
                raise LabelError(f"label word {word!r} has no tokens of its own after the prompt; choose another word")
            labels.append(whole[len(before) :])
        for word, label in zip(words, labels, strict=True):
            if self.tokenizer.unk_token_id is not None and self.tokenizer.unk_token_id in label:
                raise LabelError(f"label word {word!r} is not in the model's vocabulary; choose another word")
            if labels.count(label) > 1:
                raise LabelError(f"label word {word!r} has the same tokens as another label; choose words that differ")
        return labels

    def _check_length(self, length: int) -> None:
        limit = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        if limit is not None and length > limit:
            raise ValueError(f"a prompt of {length} tokens, for a model that takes {limit}; shorten the utterance")

    def _batches(self, order: Sequence[str], lengths: Sequence[int]) -> list[list[str]]:
        """Neighbours in length, as many as the budget takes."""
        batches: list[list[str]] = [[]]
        for text, length in zip(order, lengths, strict=True):
            if batches[-1] and (len(batches[-1]) + 1) * length > self.token_budget:
                batches.append([])
            batches[-1].append(text)
        return batches

    # --- the model ----------------------------------------------------------------------------------------------

    def _prefill(self, prefix: list[int]) -> Any:
        """Keys and values of the prefix, for a batch of one; None for an empty prefix. Kept for the next call."""
        if prefix != self._kept[0]:
            ids_1P = torch.tensor([prefix], device=self.model.device)
            self._kept = prefix, self.model.base_model(ids_1P, use_cache=True).past_key_values if prefix else None
        return self._kept[1]

    def _score_batch(self, suffixes: list[list[int]], labels: list[list[int]], start: int, cache: Any) -> Tensor:
        """[B, L]. Labels that share all tokens but the last share a pass; single tokens all ride on one."""
        heads = sorted({tuple(label[:-1]) for label in labels} - {()}) or [()]
        result = torch.empty(len(suffixes), len(labels))
        for head in heads:
            log_p_BHV = self._log_probs(suffixes, head, start, cache)
            for index, label in enumerate(labels):
                if tuple(label[:-1]) in ((), head):
                    steps = torch.arange(len(label), device=log_p_BHV.device)
                    picked_BH = log_p_BHV[:, steps, torch.tensor(label, device=log_p_BHV.device)]
                    result[:, index] = picked_BH.sum(-1).cpu()
        return result

    def _log_probs(self, suffixes: list[list[int]], head: tuple[int, ...], start: int, cache: Any) -> Tensor:
        """Log-probabilities after the last token of each suffix and after each token of `head`, [B, 1 + head, V].

        Padding stands on the right, where no token of the suffix can see it.
        """
        device = self.model.device
        rows = [[*suffix, *head] for suffix in suffixes]
        size = max(map(len, rows))
        input_BS = torch.tensor([[*row, *[0] * (size - len(row))] for row in rows], device=device)
        position_BS = torch.arange(start, start + size, device=device).expand(len(rows), -1)
        past = copy.deepcopy(cache)
        if past is not None:
            past.batch_repeat_interleave(len(rows))
        hidden_BSD = self.model.base_model(
            input_BS, position_ids=position_BS, past_key_values=past, use_cache=past is not None
        ).last_hidden_state
        last_B = torch.tensor([len(suffix) - 1 for suffix in suffixes], device=device)
        at_BH = last_B[:, None] + torch.arange(len(head) + 1, device=device)
        hidden_BHD = hidden_BSD[torch.arange(len(rows), device=device)[:, None], at_BH]
        return self.model.get_output_embeddings()(hidden_BHD).float().log_softmax(-1)


def _common_start(sequences: Sequence[list[int]]) -> list[int]:
    """What all sequences start with."""
    first, last = min(sequences), max(sequences)  # all others lie between these
    length = next((at for at, (x, y) in enumerate(zip(first, last, strict=False)) if x != y), len(first))
    return first[:length]
