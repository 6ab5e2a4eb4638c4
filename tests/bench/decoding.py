"""Decoding feedback with SmolLM2: against generating three tokens (the authors' way), one pass a batch, the machine.

Both peers take the same prompts in full, padded, in their best batch size, and read off the same label words at the
end of the prompt; peers that keep the shared start are in `decoding_prefix`. Follow-ups are of simulated games. Ours
starts without the shared prefix every time; the peers are timed on every k-th turn, because they take the same time for
each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from time import perf_counter
from typing import Any

import torch
from torch import Tensor
from transformers import Pipeline

from respect_core.feedback import decoder as feedback
from respect_core.feedback.decoder import FeedbackDecoder
from respect_core.feedback.prompts import Exchange
from respect_core.feedback.scoring import LabelScorer
from respect_core.feedback.trees import Tree
from respect_core.model.local import Dtype
from respect_core.training_data.sampling import Example
from tests.bench import games
from tests.bench.flops import Shape
from tests.bench.record import Record, case, compare

BATCHES = (1, 4, 16)  # that each peer may choose from
ROUNDING = 1e-3  # nats between two ways to the same score in float32
SIDE = 4096  # of the square matrices that stand for the machine

Peer = Callable[[Sequence[str], int], Tensor]
"""Prompts and batch size to log-probabilities of the label words, [prompts, L]."""


def decoder(dtype: Dtype = "float32") -> FeedbackDecoder:
    """The decoder in fp32, as its peers are, or as the processor likes it best."""
    return _decoder(dtype)


@lru_cache(maxsize=2)
def _decoder(dtype: Dtype) -> FeedbackDecoder:  # a default would be a key of its own, and push another model out
    return FeedbackDecoder(replace(feedback.smollm2(), dtype=dtype))


def words() -> list[str]:
    return [word for synonyms in decoder().config.binary.words.values() for word in synonyms]


def prompts(turns: int, count: int) -> list[str]:
    """So many prompts of follow-ups in games of so many turns, in the order in which they were played."""
    examples = games.examples(-(-count // (turns - 1)), turns)
    return [decoder()._render(decoder().config.binary, each) for each in exchanges(examples)][:count]


def exchanges(examples: Iterable[Example]) -> list[Exchange]:
    """The turns with a follow-up."""
    found: list[Exchange] = []
    for interaction in (example.interaction for example in examples):
        rows = [
            {
                "interaction_id": interaction.interaction_id,
                "turn": number,
                "utterance": turn.utterance,
                "action": turn.action,
                "follow_up": after.utterance if after else None,
            }
            for number, (turn, after) in enumerate(zip(interaction.turns, [*interaction.turns[1:], None], strict=True))
        ]
        found += [each for _, each in feedback.exchanges(rows)]
    return found


def batched(texts: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    return (texts[start : start + size] for start in range(0, len(texts), size))


# --- the sides --------------------------------------------------------------------------------------------------


def ours(texts: Sequence[str], dtype: Dtype = "float32", labels: Sequence[str] = ()) -> Tensor:
    return LabelScorer(decoder(dtype).local, decoder().config.token_budget).score(texts, labels or words())


@lru_cache(maxsize=1)
def label_tokens() -> list[int]:
    return [decoder().local.tokenizer(" " + word).input_ids[0] for word in words()]


def padded(texts: Sequence[str]) -> Any:
    tokenizer: Any = decoder().local.tokenizer
    tokenizer.padding_side = "left"
    return tokenizer(list(texts), return_tensors="pt", padding=True)


def generate(texts: Sequence[str], batch: int) -> Tensor:
    """Three tokens a prompt. The label words are read off the first step's scores."""
    found = []
    for some in batched(texts, batch):
        model: Any = decoder().local.model
        answer = model.generate(
            **padded(some), max_new_tokens=3, min_new_tokens=3, do_sample=False, output_logits=True,
            return_dict_in_generate=True, pad_token_id=decoder().local.tokenizer.pad_token_id,
        )  # fmt: skip
        found.append(answer.logits[0].log_softmax(-1)[:, label_tokens()])
    return torch.cat(found)


class LabelPipeline(Pipeline):
    """One forward pass a batch; the head at the last token alone."""

    def _sanitize_parameters(self, **_: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        return {}, {}, {}

    def preprocess(self, input_: Any, **_: Any) -> Any:
        tokenizer: Any = self.tokenizer
        return tokenizer(input_, return_tensors="pt")

    def _forward(self, input_tensors: Any, **_: Any) -> Any:
        return {"logits": self.model(**input_tensors, logits_to_keep=1, use_cache=False).logits[:, -1]}

    def postprocess(self, model_outputs: Any, **_: Any) -> Tensor:
        log_p_BV: Tensor = model_outputs["logits"].log_softmax(-1)
        return log_p_BV[:, label_tokens()]


@lru_cache(maxsize=1)
def pipeline() -> LabelPipeline:
    tokenizer: Any = decoder().local.tokenizer
    tokenizer.padding_side = "left"
    return LabelPipeline(decoder().local.model, tokenizer=tokenizer)


def one_pass(texts: Sequence[str], batch: int) -> Tensor:
    return torch.cat(pipeline()(list(texts), batch_size=batch))


# --- the cases --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scale:
    """How much is decoded: turns of ours, every how-manieth of which the peers take, and how often."""

    lengths: tuple[int, ...] = games.LENGTHS
    turns: int = 180
    every: int = 10
    repeats: int = 3
    batches: tuple[int, ...] = BATCHES


QUICK = Scale(lengths=(3,), turns=36, every=12, repeats=1, batches=(3,))


@case("decoding-generate")
def decoding_generate(quick: bool) -> Iterator[Record]:
    """The bar is 4."""
    yield from _against("decoding-generate", generate, "transformers generate, 3 tokens", 4.0, 3, quick)


@case("decoding-pipeline")
def decoding_pipeline(quick: bool) -> Iterator[Record]:
    """The bar is 2."""
    yield from _against("decoding-pipeline", one_pass, "transformers pipeline, one pass", 2.0, 1, quick)


def _against(name: str, peer: Peer, peer_name: str, bar: float, steps: int, quick: bool) -> Iterator[Record]:
    scale = QUICK if quick else Scale()
    shape = Shape.of(decoder().local.model)
    with torch.inference_mode():
        for turns in scale.lengths:
            texts = prompts(turns, scale.turns)
            some = texts[:: scale.every]
            batch = fastest(peer, some, scale.batches)
            equality = _agree(ours(texts)[:: scale.every], peer(some, batch), len(set(texts)), len(texts))
            lengths = [padded(each).input_ids.shape for each in batched(some, batch)]
            full = [length for rows, length in lengths for _ in range(rows)]
            share = len(texts) / len(some)  # the peer's counts are for the same turns as ours
            passes = shape.forward([length + steps - 1 for length in full], logits=steps * len(some))
            tokens, flops = counts(texts)
            yield compare(
                name,
                "135m",
                turns,
                ours=partial(ours, texts),
                peer=partial(peer, some, batch),
                work=len(texts),
                peer_work=len(some),
                unit="turns/s",
                peer_name=f"{peer_name}, batch of {batch}",
                bar=bar,
                equality=equality,
                tokens=(tokens, round(share * sum(length + steps - 1 for length in full))),
                flops=(flops, share * passes),
                repeats=scale.repeats,
                warm_up=False,
            )


@case("decoding-machine")
def decoding_machine(quick: bool) -> Iterator[Record]:
    """FLOP/s of decoding over those of one large matrix product; the bar is 0.6. Masked attention is not counted."""
    scale = QUICK if quick else Scale()
    precision = torch.bfloat16 if decoder("auto").local.fast is not None else torch.float32
    matrix = torch.randn(SIDE, SIDE, dtype=precision)
    with torch.inference_mode():
        for turns in scale.lengths:
            texts = prompts(turns, scale.turns // 2)
            tokens, flops = counts(texts)
            yield compare(
                "decoding-machine",
                "135m",
                turns,
                ours=partial(ours, texts, "auto"),
                peer=partial(torch.mm, matrix, matrix),
                work=flops / 1e9,
                peer_work=2.0 * SIDE**3 / 1e9,
                unit="GFLOP/s",
                peer_name=f"one product of {SIDE} x {SIDE} matrices in {str(precision).removeprefix('torch.')}",
                bar=0.6,
                equality="none: two kinds of work",
                tokens=(tokens, None),
                flops=(flops, 2.0 * SIDE**3),
                repeats=2 if quick else 5,
                warm_up=False,  # counting the tokens was one
            )


@case("decoding-precision")
def decoding_precision(quick: bool) -> Iterator[Record]:
    """The precision that the processor likes best against fp32; the bar is 2.5. None where that is fp32."""
    scale = QUICK if quick else Scale()
    with torch.inference_mode():
        for turns in scale.lengths if decoder("auto").local.fast is not None else ():
            texts = prompts(turns, 5 * scale.turns)
            tokens, flops = counts(texts)
            fast, exact = (_scores(ours(texts, dtype)) for dtype in ("auto", "float32"))
            label = decoder().config.binary_thresholds.label
            labels = [[label(score, score) for score in each] for each in (fast, exact)]
            same = sum(one == other for one, other in zip(*labels, strict=True))
            apart = max(abs(one - other) for one, other in zip(fast, exact, strict=True))
            yield compare(
                "decoding-precision",
                "135m",
                turns,
                ours=partial(ours, texts, "auto"),
                peer=partial(ours, texts, "float32"),
                work=len(texts),
                peer_work=len(texts),
                unit="turns/processor s",
                peer_name="fp32",
                bar=2.5,
                equality=f"{same} of {len(texts)} labels equal, scores within {apart:.0e} nats",
                tokens=(tokens, tokens),
                flops=(flops, flops),
                repeats=scale.repeats,
                warm_up=False,
                processor=True,
            )


def counts(texts: Sequence[str], labels: Sequence[str] = ()) -> tuple[int, float]:
    """Tokens and FLOPs of decoding these prompts: a token attends to the shared prefix and its own ancestors."""
    scorer = LabelScorer(decoder().local, decoder().config.token_budget)
    shape, run = Shape.of(decoder().local.model), scorer.trees.hidden
    before = scorer.trees.tokens
    sizes: list[tuple[int, int]] = []

    def counted(prefix: list[int], tree: Tree) -> Tensor:
        sizes.append((len(prefix), sum(len(prefix) + len(path) for path in tree.paths)))
        return run(prefix, tree)

    scorer.trees.hidden = counted  # type: ignore[method-assign]
    scorer.score(texts, labels or words())
    tokens = scorer.trees.tokens - before
    attention = shape.attention * (sizes[0][0] ** 2 + 2 * sum(seen for _, seen in sizes))
    return tokens, 2 * shape.text * tokens + attention + 2 * shape.head * len(set(texts))


def fastest(peer: Peer, texts: Sequence[str], batches: Sequence[int]) -> int:
    """The batch size with which the peer takes least time."""
    seconds = {}
    for batch in batches if len(batches) > 1 else ():
        peer(texts[:batch], batch)  # warm-up
        started = perf_counter()
        peer(texts, batch)
        seconds[batch] = perf_counter() - started
    return min(seconds, key=lambda batch: seconds[batch]) if seconds else batches[0]


def _scores(log_p_NL: Tensor) -> list[float]:
    """The log-odds of positive."""
    half = log_p_NL.shape[1] // 2  # the positive words come first
    scores: list[float] = (log_p_NL[:, :half].mean(1) - log_p_NL[:, half:].mean(1)).tolist()
    return scores


def _agree(mine: Tensor, theirs: Tensor, distinct: int, turns: int) -> str:
    """Scores within rounding, and the same labels under the shipped thresholds; else AssertionError."""
    scores = [_scores(each) for each in (mine, theirs)]
    apart = max(abs(one - other) for one, other in zip(*scores, strict=True))
    assert apart < ROUNDING, f"scores differ by {apart}"
    for thresholds in (decoder().config.binary_thresholds, decoder().config.ternary_thresholds):
        labels = [[thresholds.label(score, score) for score in each] for each in scores]
        assert labels[0] == labels[1], "labels differ"
    return f"{len(mine)} labels equal, scores within {apart:.0e} nats; {distinct} of {turns} prompts are distinct"
