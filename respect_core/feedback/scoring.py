"""Score label words after prompts by their log-probability, for the feedback decoder (section 4.1).

Deviations from the paper:

1. The paper lets the model generate a word and reads it. Here each label's log-probability is computed: there is
   nothing to parse, the score can be thresholded, and it takes one forward pass instead of one per generated token.
2. The start that all prompts share (instructions, examples) goes through the model once, as does each start that
   some of them share; there is no padding (`respect_core.feedback.trees`). The result is the same up to rounding
   (tests/respect_core/feedback/test_decoder.py).

Shape legend: T tokens of a tree, N nodes after which a label is scored, L labels, V vocabulary, D width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from respect_core.errors import ExpectedError
from respect_core.feedback.trees import Tree, TreePass, to_device
from respect_core.model import threads
from respect_core.model.local import LocalModel

Progress = Callable[[int, int], None]
"""Called after each batch with the number of distinct prompts done, and their total."""


class LabelError(ExpectedError, ValueError):
    """Raised for label words that share tokens, or that merge with the prompt's last token."""


class LabelScorer:
    """A scorer of label words after prompts, with one model.

    Args:
        local: the model.
        token_budget: maximum number of tokens in one pass, not counting the start that all prompts share.
    """

    def __init__(self, local: LocalModel, token_budget: int = 384) -> None:
        self.model, self.tokenizer = local.model, local.tokenizer
        self.token_budget = token_budget
        self._limit: float = getattr(self.model.config.get_text_config(), "max_position_embeddings", None) or math.inf
        self.trees = TreePass(local.fast or self.model, self.model)
        self.tokens = 0  # through the model so far, without the start that all prompts share

    def score(
        self,
        prompts: Sequence[str],
        words: Sequence[str],
        samples: Sequence[str] = (),
        progress: Progress | None = None,
    ) -> Tensor:
        """Compute the log-probability of each word after each prompt, [prompts, L] in float32 on the CPU.

        A word is scored by all its tokens. Identical prompts are scored once. The other prompts of a call change a
        result by rounding at most; their order does not change it at all.

        Args:
            samples: further texts made by the same template. The shared prefix is the common start of all prompts and
                samples, so two unlike samples keep it the same from call to call.

        Raises:
            LabelError: see there.
            ValueError: a prompt longer than the model's context.
        """
        if not prompts:
            return torch.empty(0, len(words))
        tokens = {text: self._tokens(text) for text in prompts}
        labels = self._labels(prompts[0], words)
        self._check_length(max(map(len, tokens.values())) + max(map(len, labels)))
        shared = _common_start([*tokens.values(), *map(self._tokens, samples)])
        start = min(len(shared), min(map(len, tokens.values())) - 1)  # every prompt has at least one token left
        prefix, rest = shared[:start], {text: each[start:] for text, each in tokens.items()}
        passes: list[tuple[list[str], Tensor]] = []
        done = 0

        def score_batch(batch: list[str]) -> tuple[list[str], Tensor, int]:
            return batch, *self._score_batch(prefix, [rest[text] for text in batch], labels)

        with torch.inference_mode():
            if self.trees.takes_trees:
                self.trees.keep(prefix)
            batches = self._batches(rest, sum(len(label) - 1 for label in labels))
            for batch, log_p, size in threads.map_parallel(score_batch, batches, self.model.device):
                passes.append((batch, log_p))
                done += len(batch)
                self.tokens += size
                if progress:
                    progress(done, len(rest))
        # Read at the end: a GPU does not wait while Python prepares the next pass.
        scores: dict[str, Tensor] = {}
        lengths = [len(label) for label in labels]
        for batch, log_p in passes:
            by_label = log_p.cpu().split(lengths * len(batch))
            scores_BL = torch.stack([each.sum() for each in by_label]).view(len(batch), len(labels))
            scores.update(zip(batch, scores_BL, strict=True))
        return torch.stack([scores[text] for text in prompts])

    def room(self, prompt: str, words: Sequence[str]) -> float:
        """Return how many tokens fit in addition to a prompt and its longest word; below 0 if these are too long.

        Raises:
            LabelError: see there.
        """
        return self._limit - len(self._tokens(prompt)) - max(map(len, self._labels(prompt, words)))

    # --- tokens -------------------------------------------------------------------------------------------------

    def _tokens(self, text: str) -> list[int]:
        has_bos = bool(self.tokenizer.bos_token) and text.startswith(str(self.tokenizer.bos_token))
        return list(self.tokenizer(text, add_special_tokens=not has_bos).input_ids)

    def _labels(self, prompt: str, words: Sequence[str]) -> list[list[int]]:
        """Return the tokens of each word as they follow the prompt, after a space unless the prompt ends in one."""
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
        if length > self._limit:
            raise ValueError(f"a prompt of {length} tokens, for a model that takes {self._limit:g}; shorten the prompt")

    # --- the model ----------------------------------------------------------------------------------------------

    def _batches(self, rest: Mapping[str, list[int]], more: int) -> Iterator[list[str]]:
        """Yield batches of prompts, sorted by their tokens so that neighbours share much, within the token budget.

        Args:
            rest: tokens of each prompt after the shared start.
            more: tokens that the labels add to each prompt.
        """
        batch: list[str] = []
        size = 0
        for text in sorted(rest, key=lambda text: rest[text]):
            length = len(rest[text]) + more
            if batch and size + length > self.token_budget:
                yield batch
                batch, size = [], 0
            batch.append(text)
            size += length
        yield batch

    def _score_batch(self, prefix: list[int], prompts: list[list[int]], labels: list[list[int]]) -> tuple[Tensor, int]:
        """Return the log-probability of every token of every label, prompt by prompt, and the tree's size.

        Each token of a label is scored at the node before it. The result stays on the model's device.
        """
        tree = Tree()
        before = [tree.add([*prompt, *label[:-1]])[-len(label) :] for prompt in prompts for label in labels]
        nodes = sorted({node for path in before for node in path})
        row_of = {node: row for row, node in enumerate(nodes)}
        rows = [row_of[node] for path in before for node in path]
        words = [token for _ in prompts for label in labels for token in label]
        device = self.model.device
        nodes_N, places = to_device(torch.tensor(nodes), device), to_device(torch.tensor([rows, words]), device)
        hidden_ND = self.trees.hidden(prefix, tree)[nodes_N]
        log_p_NV = self.model.get_output_embeddings()(hidden_ND).float().log_softmax(-1)
        return log_p_NV[places[0], places[1]], len(tree)


def _common_start(sequences: Sequence[list[int]]) -> list[int]:
    """Return the longest common start of all sequences."""
    first, last = min(sequences), max(sequences)  # all others sort between these, and so share their common start
    length = next((at for at, (x, y) in enumerate(zip(first, last, strict=False)) if x != y), len(first))
    return first[:length]
