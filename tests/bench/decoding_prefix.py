"""Decoding feedback against peers that keep the prompts' shared start, in games and in talks with the smart home.

One peer is transformers: keys and values of the start in a `DynamicCache`, computed once a call as ours, then batches
of what follows it, similar lengths together, in its best batch size. The other is a vLLM server with prefix caching,
where RESPECT_TEST_VLLM_PYTHON names the Python of an environment that has it. It keeps the start from one call to the
next, and all of the prompts. Both peers score every prompt, as ours does, identical ones once.
"""

from __future__ import annotations

import copy
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache

from respect_core.feedback import decoder as feedback
from respect_core.feedback import scoring
from respect_core.feedback.decoder import DecoderConfig, FeedbackDecoder
from respect_core.feedback.prompts import POSITIVE, opening
from respect_core.model import local
from tests.bench import chat_serving, conversations, decoding
from tests.bench.chat_serving import Server
from tests.bench.flops import Shape
from tests.bench.record import Record, case, compare

BATCHES = (16, 64)


@dataclass(frozen=True)
class Work:
    """Prompts of a decoder, and how many turns they are of."""

    config: DecoderConfig
    texts: Sequence[str]
    turns: int

    @cached_property
    def words(self) -> list[str]:
        return feedback.words_of(self.config.binary)

    @cached_property
    def labels(self) -> list[int]:
        """The words as tokens, one each."""
        return [token for word in self.words for token in decoding.decoder().local.tokenizer(" " + word).input_ids]

    @cached_property
    def tokens(self) -> list[list[int]]:
        """Of each distinct prompt."""
        return [list(decoding.decoder().local.tokenizer(text).input_ids) for text in dict.fromkeys(self.texts)]

    @cached_property
    def start(self) -> int:
        """Tokens that all prompts share."""
        return len(scoring._common_start(self.tokens))

    def ours(self) -> Tensor:
        return decoding.ours(self.texts, labels=self.words)

    def spread(self, log_p_DL: Tensor) -> Tensor:
        """Of all prompts, from those of the distinct ones."""
        places = {text: place for place, text in enumerate(dict.fromkeys(self.texts))}
        return log_p_DL[[places[text] for text in self.texts]]

    def scores(self, log_p_NL: Tensor) -> list[float]:
        """The log-odds of positive: the same after a normalisation over the label words alone."""
        positive = len(self.config.binary.words[POSITIVE])  # which come first
        found: list[float] = (log_p_NL[:, :positive].mean(1) - log_p_NL[:, positive:].mean(1)).tolist()
        return found


def batches(work: Work, batch: int) -> Iterator[list[int]]:
    """Places of distinct prompts, similar lengths together."""
    places = sorted(range(len(work.tokens)), key=lambda place: -len(work.tokens[place]))
    return (places[first : first + batch] for first in range(0, len(places), batch))


def kept_prefix(work: Work, batch: int) -> Tensor:
    model: Any = decoding.decoder().local.model
    start, cache = work.start, DynamicCache(config=model.config)
    model.model(torch.tensor([work.tokens[0][:start]]), past_key_values=cache)
    log_p_DL = torch.empty(len(work.tokens), len(work.labels))
    for places in batches(work, batch):
        rest = [torch.tensor(work.tokens[place][start:]) for place in places]
        kept = copy.deepcopy(cache)
        kept.batch_repeat_interleave(len(rest))
        mask_BT = pad_sequence([torch.ones(start + len(each), dtype=torch.long) for each in rest], batch_first=True)
        hidden_BTH = model.model(
            pad_sequence(rest, batch_first=True), attention_mask=mask_BT, past_key_values=kept
        ).last_hidden_state
        last_BH = hidden_BTH[range(len(rest)), [len(each) - 1 for each in rest]]
        log_p_DL[places] = model.get_output_embeddings()(last_BH).log_softmax(-1)[:, work.labels]
    return work.spread(log_p_DL)


def cost(work: Work, batch: int) -> tuple[int, float]:
    """Tokens and FLOPs of `kept_prefix`; a token attends to the kept start and those before it."""
    shape, start = Shape.of(decoding.decoder().local.model), work.start
    tokens, attention = start, float(start**2)
    for places in batches(work, batch):
        width = max(len(work.tokens[place]) for place in places) - start
        tokens += len(places) * width
        attention += len(places) * (width**2 + 2 * width * start)
    return tokens, 2 * shape.text * tokens + shape.attention * attention + 2 * shape.head * len(work.tokens)


def served(server: Server, work: Work) -> Tensor:
    """Of a vLLM server."""
    options: Any = {"max_tokens": 1, "temperature": 0.0, "logprobs": len(work.labels)}
    options["extra_body"] = {"allowed_token_ids": work.labels, "return_tokens_as_token_ids": True}
    answer: Any = server.client.completions.create(model=server.model, prompt=work.tokens, **options)
    found = [each.logprobs.top_logprobs[0] for each in sorted(answer.choices, key=lambda each: each.index)]
    return work.spread(torch.tensor([[each[f"token_id:{token}"] for token in work.labels] for each in found]))


def _games(turns: int, count: int) -> Work:
    texts = decoding.prompts(turns, count)
    return Work(decoding.decoder().config, texts, len(texts))


def _conversations(turns: int, count: int) -> Work:
    """Each follow-up and its opening, which the decoder of conversations scores too."""
    config = replace(feedback.smollm2_home(), dtype="float32")
    decoder = FeedbackDecoder(config, decoding.decoder().local)
    quotes = decoding.exchanges(conversations.examples(-(-count // (turns - 1)), turns))[:count]
    openings = [replace(each, follow_up=opening(each.follow_up)) for each in quotes]
    return Work(config, [decoder._render(config.binary, each) for each in (*quotes, *openings)], len(quotes))


@case("decoding-prefix")
def decoding_prefix(quick: bool) -> Iterator[Record]:
    """Follow-ups in games."""
    yield from _all("decoding-prefix", _games, quick)


@case("chat-decode")
def chat_decode(quick: bool) -> Iterator[Record]:
    """Follow-ups in conversations of the smart home."""
    yield from _all("chat-decode", _conversations, quick)


def _all(name: str, make: Callable[[int, int], Work], quick: bool) -> Iterator[Record]:
    scale = decoding.QUICK if quick else decoding.Scale()
    python = None if quick else shutil.which(os.environ.get("RESPECT_TEST_VLLM_PYTHON", ".venv-vllm/bin/python"))
    with torch.inference_mode(), ExitStack() as stack:
        server = stack.enter_context(_vllm(python)) if python else None
        for turns in scale.lengths:
            work = make(turns, scale.turns)
            batch = BATCHES[0]
            if not quick:
                batch = decoding.fastest(lambda _, size, work=work: kept_prefix(work, size), work.texts, BATCHES)
            kept = f"transformers, start kept, batch of {batch}"
            yield _compare(name, turns, work, partial(kept_prefix, work, batch), kept, cost(work, batch), scale.repeats)
            if server:
                yield _compare(
                    name, turns, work, partial(served, server, work), server.name, (None, None), scale.repeats
                )


def _vllm(python: str) -> Any:
    command = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", local.locate("smollm2")]
    command += ["--served-model-name", "base", "--dtype", "float32", "--enable-prefix-caching"]
    command += ["--logprobs-mode", "processed_logprobs", "--host", "127.0.0.1", "--port"]
    return chat_serving.process("vLLM, prefix caching", "base", command, ("--max-model-len", "2048"), "/health")


def _compare(
    name: str,
    turns: int,
    work: Work,
    peer: Callable[[], Tensor],
    peer_name: str,
    costs: tuple[int | None, float | None],
    repeats: int,
) -> Record:
    """Check the scores, and labels under the shipped thresholds; then time both.

    Raises:
        AssertionError: they differ.
    """
    mine, theirs = work.scores(work.ours()), work.scores(peer())
    apart = max(abs(one - other) for one, other in zip(mine, theirs, strict=True))
    assert apart < decoding.ROUNDING, f"scores differ by {apart}"
    label = work.config.binary_thresholds.label
    assert [label(score, score) for score in mine] == [label(score, score) for score in theirs], "labels differ"
    tokens, flops = decoding.counts(work.texts, work.words)
    return compare(
        name,
        "135m",
        turns,
        ours=work.ours,
        peer=peer,
        work=work.turns,
        unit="turns/s",
        peer_name=peer_name,
        bar=None,
        equality=f"{len(mine)} labels equal, scores within {apart:.0e} nats; {len(work.tokens)} prompts are distinct",
        tokens=(tokens, costs[0]),
        flops=(flops, costs[1]),
        repeats=repeats,
        warm_up=False,
        packages=("openai",),
    )
