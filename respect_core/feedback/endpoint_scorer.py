"""Score label words behind an OpenAI-compatible endpoint, in place of a local model (`feedback.scoring`).

The model is asked for one token, and the endpoint lists the likeliest ones. A label's log-probability is that of all
listed tokens that begin its word, and the word of no other label; if there are none, it is that of the least likely
token listed, which it is no more likely than.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from respect_core.feedback.scoring import Progress
from respect_core.model.endpoint import Endpoint, EndpointError

CONCURRENCY = 8
"""Most requests at a time."""


class EndpointScorer:
    """A scorer of label words after prompts, each the message of a user.

    `tokens` is how many the endpoint has counted so far, which is what they cost.
    """

    token_budget = 0  # passes are the endpoint's

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.tokens = 0

    def score(
        self,
        prompts: Sequence[str],
        words: Sequence[str],
        samples: Sequence[str] = (),  # noqa: ARG002  # as LabelScorer's
        progress: Progress | None = None,
    ) -> Tensor:
        """Compute the log-probability of each word after each prompt, [prompts, words]. Identical prompts are one.

        Raises:
            EndpointError: the endpoint does not answer, or lists no tokens.
        """
        distinct = list(dict.fromkeys(prompts))
        asked = [[{"role": "user", "content": text}] for text in distinct]
        scores: dict[str, list[float]] = {}
        for text, first in zip(
            distinct, self.endpoint.first_tokens(asked, concurrency=CONCURRENCY, progress=progress), strict=True
        ):
            if first is None:
                raise EndpointError(
                    f"{self.endpoint.model} at {self.endpoint.host} gives no log-probabilities of its first token: "
                    "take a model and a server that do (logprobs, top_logprobs)"
                )
            scores[text] = _of_words(first.logp, words)
            self.tokens += first.tokens
        return torch.tensor([scores[text] for text in prompts]).view(len(prompts), len(words))

    def room(self, prompt: str, words: Sequence[str]) -> float:  # noqa: ARG002  # as LabelScorer's
        """Return how many tokens fit in addition to a prompt: many, as endpoints' models take."""
        return _ROOM


_ROOM = 1 << 20


def _of_words(logp: Mapping[str, float], words: Sequence[str]) -> list[float]:
    by_word: dict[str, list[float]] = {word: [] for word in words}
    for token, value in logp.items():
        begun = [word for word in words if token.strip() and word.lower().startswith(token.strip().lower())]
        if len(begun) == 1:
            by_word[begun[0]].append(value)
    least = min(logp.values())
    return [math.log(sum(map(math.exp, values))) if values else least for values in by_word.values()]
