"""Run many token sequences in one pass of a causal model, each shared start once and without padding.

Sequences that start alike share those tokens: together they form a tree. The tree goes through the model as one row
in which every token sees only its own ancestors, at the position that its depth gives it. The model then computes the
same at a token as it does for that token's sequence alone, up to rounding.

Shape legend: T tokens of a tree, P tokens of the prefix that all sequences share, R sequences, S tokens of the
longest sequence with its prefix, D width.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from threading import Lock
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from respect_core.model.memory import no_room
from respect_core.model.precision import round_cache

_log = logging.getLogger(__name__)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor of the CPU to a device. A plain copy would wait until a GPU has finished the passes before it."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


class Tree:
    """A tree of token sequences that share their common starts. Nodes are numbered as added, parents first."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.paths: list[list[int]] = []  # for each node: its ancestors, from the root down, and itself
        self._children: dict[tuple[int, int], int] = {}  # (parent or -1, token) -> node

    def __len__(self) -> int:
        return len(self.tokens)

    def add(self, sequence: Sequence[int]) -> list[int]:
        """Add a sequence; return its nodes, first token to last. New nodes are appended."""
        path: list[int] = []
        for token in sequence:
            key = path[-1] if path else -1, token
            if key not in self._children:
                self._children[key] = len(self.tokens)
                self.tokens.append(token)
                self.paths.append([*path, self._children[key]])
            path = self.paths[self._children[key]]
        return path

    def sees(self) -> Tensor:
        """Return which tokens each token sees, [T, T] of bool."""
        by_depth: dict[int, list[int]] = {}
        for node, path in enumerate(self.paths):
            by_depth.setdefault(len(path), []).append(node)
        sees_TT = torch.eye(len(self), dtype=torch.bool)
        for depth in range(2, len(by_depth) + 1):  # a node sees itself and what its parent sees
            nodes = by_depth[depth]
            sees_TT[nodes] |= sees_TT[[self.paths[node][-2] for node in nodes]]
        return sees_TT

    def leaves(self) -> list[list[int]]:
        """Return the paths of the nodes without children: together they hold every node."""
        parents = {parent for parent, _ in self._children}
        return [path for node, path in enumerate(self.paths) if node not in parents]


class TreePass:
    """Passes of trees through a model. The keys and values of the prefix are computed once and cached.

    Several threads may run trees after a cached prefix.

    If the model's attention does not take a separate mask for every token (tested on construction), it gets one padded
    row for each leaf, prefix included, as is usual.

    Args:
        exact: computes what all trees share; `model`, or the one that it rounds, so that no error is in all results.
    """

    def __init__(self, model: PreTrainedModel, exact: PreTrainedModel | None = None) -> None:
        self.model, self._exact = model, exact or model
        self.tokens = 0  # through the model so far, padding included
        self._counting = Lock()
        self._cached: tuple[list[int], Any] = [], None  # the last prefix, and its keys and values
        with torch.inference_mode():
            self.takes_trees = self._takes_trees()

    def keep(self, prefix: list[int]) -> None:
        """Cache the keys and values of a prefix, in place of those of another."""
        if prefix and prefix != self._cached[0]:
            ids_1P = torch.tensor([prefix], device=self.model.device)
            past = self._exact.base_model(ids_1P, use_cache=True).past_key_values
            if self.model is not self._exact:
                round_cache(past)
            self._cached = prefix, past
            self.tokens += len(prefix)

    def hidden(self, prefix: list[int], tree: Tree) -> Tensor:
        """Return the last hidden state at every node of the tree after the prefix, [T, D]."""
        return self._one_row(prefix, tree) if self.takes_trees else self._padded_rows(prefix, tree)

    def _takes_trees(self) -> bool:
        """Test whether the smallest tree, two tokens after one, gives the same as the two sequences."""
        tree = Tree()
        tree.add([1])
        tree.add([2])
        expected_TD = self._padded_rows([0], tree).float()
        try:
            actual_TD = self._one_row([0], tree).float()
        except (RuntimeError, TypeError, ValueError) as error:  # does not take a mask of this shape, or positions
            if no_room(error):
                raise
            why = f"{type(error).__name__}: {error}"
        else:
            # bfloat16 rounds to about 0.01.
            if (actual_TD - expected_TD).norm() < 0.05 * expected_TD.norm():
                return True
            why = "it does not follow the mask"
        _log.warning("%s cannot score prompts as trees, so each is padded: %s", type(self.model).__name__, why)
        return False

    def _one_row(self, prefix: list[int], tree: Tree) -> Tensor:
        device, dtype = self.model.device, self.model.dtype
        sees_TK = torch.cat([torch.ones(len(tree), len(prefix), dtype=torch.bool), tree.sees()], dim=1)
        sees_TK = to_device(sees_TK, device)
        mask_TK = torch.zeros(sees_TK.shape, dtype=dtype, device=device).masked_fill_(~sees_TK, torch.finfo(dtype).min)
        depth_T = to_device(torch.tensor([len(path) - 1 for path in tree.paths]), device)
        return self._run(
            [tree.tokens],
            position_ids=(len(prefix) + depth_T)[None],
            attention_mask=mask_TK[None, None],
            past_key_values=self._past(prefix),
            use_cache=bool(prefix),
        )[0]

    def _padded_rows(self, prefix: list[int], tree: Tree) -> Tensor:
        """Run one padded row for each leaf. Padding is on the right, where no token of the sequence can see it."""
        leaves = tree.leaves()
        rows = [[*prefix, *(tree.tokens[node] for node in leaf)] for leaf in leaves]
        size = max(map(len, rows))
        hidden_RSD = self._run([[*row, *[0] * (size - len(row))] for row in rows], use_cache=False)
        where = {node: (row, len(prefix) + at) for row, leaf in enumerate(leaves) for at, node in enumerate(leaf)}
        rows_T, columns_T = torch.tensor([where[node] for node in range(len(tree))], device=hidden_RSD.device).T
        return hidden_RSD[rows_T, columns_T]

    def _past(self, prefix: list[int]) -> Any:
        """Return the prefix in a cache that a pass may lengthen: its tensors are shared, not copied."""
        self.keep(prefix)
        if not prefix:
            return None
        past = copy.copy(self._cached[1])
        past.layers = [copy.copy(layer) for layer in past.layers]
        return past

    def _run(self, rows: list[list[int]], **arguments: Any) -> Tensor:
        input_ids = to_device(torch.tensor(rows), self.model.device)
        with self._counting:
            self.tokens += input_ids.numel()
        hidden: Tensor = self.model.base_model(input_ids, **arguments).last_hidden_state
        return hidden
