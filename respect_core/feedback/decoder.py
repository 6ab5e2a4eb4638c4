"""Decode follow-ups into feedback with phi: positive, neutral or negative (section 4.1, appendix F).

Deviations from the paper:

1. Labels come from the log-probabilities of the label words and thresholds on them, not from a generated word. The
   paper's reading, the most probable word, is the threshold 0.
2. Small models get a few-shot prompt (`feedback.prompts`), and their thresholds were chosen on real games by
   cross-validation (docs/decoder.md), because their raw log-odds are off.
3. Where the prompt has no word for neutral, the ternary decoder calls neutral what lies between two thresholds.
4. `respect_core.utterances.Reader` cleans every text first: no part of it can pass for the prompt, and a very long text
   loses its middle. Turns in which something was neutralised are marked, and no policy learns from them.
5. With a few-shot prompt a reply is no more positive than its first clause: praise after a refusal, whether sincere or
   written to fool the decoder, does not approve of what the listener did.

The decoder sees turns: no target, no outcome (section 4.1). The last turn of an interaction has no follow-up and is
not decoded (footnote 3).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from respect_core.feedback import prompts
from respect_core.feedback.chat_examples import EXAMPLES
from respect_core.feedback.prompts import NEGATIVE, NEUTRAL, POSITIVE, Exchange, Kind, Prompt
from respect_core.model import local as local_models
from respect_core.model.endpoint import Endpoint
from respect_core.model.local import Dtype, LocalModel, ModelNotFoundError
from respect_core.utterances import Reader, normalised

if TYPE_CHECKING:  # torch takes seconds to import, and code that only names a decoder needs none of it
    from torch import Tensor

    from respect_core.feedback.scoring import Progress

SHORTEST = 8  # tokens: the model's context must hold an utterance of this length after the prompt


@dataclass(frozen=True)
class Thresholds:
    """Thresholds on log-odds, in nats.

    Positive if the score, log P(positive) - max log P(another label), is at least `positive`. Else neutral if
    log P(neutral) - log P(negative), or the score if the prompt has no word for neutral, is at least `neutral`; never
    neutral if that is None. Else negative.
    """

    positive: float = 0.0
    neutral: float | None = None

    def label(self, score: float, neutral_odds: float) -> int:
        """Return the label of a turn: +1, 0 or -1."""
        if score >= self.positive:
            return POSITIVE
        return NEUTRAL if self.neutral is not None and neutral_odds >= self.neutral else NEGATIVE


@dataclass(frozen=True)
class DecoderConfig:
    """Everything that defines a feedback decoder.

    `margin` (nats): scores closer than this to the positive threshold are marked as low margin. `token_budget`: the
    maximum number of tokens in one pass. `longest`: the maximum number of tokens read from one utterance or action.
    `model` is a folder or hub id; `name` is the decoder's name in the feedback table.
    """

    name: str
    model: str
    binary: Prompt
    ternary: Prompt
    gguf_file: str | None = None
    binary_thresholds: Thresholds = Thresholds()
    ternary_thresholds: Thresholds = Thresholds(neutral=0.0)
    margin: float = 0.25
    token_budget: int = 384
    longest: int = 256
    dtype: Dtype = "auto"
    local_files_only: bool = False

    def prompt(self, kind: Kind) -> Prompt:
        return self.binary if kind == "binary" else self.ternary

    def thresholds(self, kind: Kind) -> Thresholds:
        return self.binary_thresholds if kind == "binary" else self.ternary_thresholds


def named(name: str) -> DecoderConfig:
    """Return the decoder that a profile names: one of the functions below, or openai:MODEL@URL.

    Raises:
        ValueError: no such decoder, or an endpoint that is not named so.
    """
    if name.startswith(_OPENAI):
        return openai(name)
    functions = (idefics2_8b, smollm2, smollm2_chat, smollm2_home)
    known = {function.__name__: function for function in functions}
    if name not in known:
        raise ValueError(f"no feedback decoder {name!r}; there are: {', '.join(known)}, and openai:MODEL@URL")
    return known[name]()


_OPENAI = "openai:"


def idefics2_8b() -> DecoderConfig:
    """Return the paper's decoder: the original IDEFICS2-8B, text only, figure 3, the most probable word."""
    return DecoderConfig(
        name="HuggingFaceM4/idefics2-8b",
        model="HuggingFaceM4/idefics2-8b",
        binary=prompts.zero_shot("binary"),
        ternary=prompts.zero_shot("ternary"),
        token_budget=2048,
    )


def smollm2() -> DecoderConfig:
    """Return a decoder that a laptop can run: SmolLM2-135M-Instruct on worked examples. Thresholds: docs/decoder.md.

    Raises:
        ModelNotFoundError: the weights are not on this machine.
    """
    return DecoderConfig(
        name="SmolLM2-135M-Instruct",
        model=str(local_models.smollm2_folder()),
        gguf_file=local_models.SMOLLM2_GGUF,
        binary=prompts.few_shot("binary"),
        ternary=prompts.few_shot("ternary"),
        binary_thresholds=Thresholds(positive=-0.91),
        ternary_thresholds=Thresholds(positive=-0.82, neutral=-1.3),
        margin=0.1,
        local_files_only=True,
    )


def smollm2_chat() -> DecoderConfig:
    """Return the decoder of conversations: SmolLM2-135M-Instruct on worked examples of users' replies to an assistant.

    Thresholds: docs/decoder.md, 'Conversations'.

    Raises:
        ModelNotFoundError: the weights are not on this machine.
    """
    return replace(
        smollm2(),
        binary=prompts.few_shot_chat("binary", EXAMPLES),
        ternary=prompts.few_shot_chat("ternary", EXAMPLES),
        binary_thresholds=Thresholds(positive=0.25),
        ternary_thresholds=Thresholds(positive=1.0, neutral=-0.25),
    )


def smollm2_home() -> DecoderConfig:
    """Return `smollm2_chat` with thresholds for users of the smart home, who approve in two or three words.

    Of its positives on 484 follow-ups of a study, 93% were right replies, and three in four right replies were found.

    Raises:
        ModelNotFoundError: the weights are not on this machine.
    """
    return replace(
        smollm2_chat(),
        binary_thresholds=Thresholds(positive=0.5),
        ternary_thresholds=Thresholds(positive=0.5, neutral=-0.25),
    )


def openai(name: str) -> DecoderConfig:
    """Return a decoder behind an OpenAI-compatible endpoint: figure 3, the most probable word."""
    endpoint = Endpoint.named(name)
    return DecoderConfig(
        name=f"{endpoint.model} at {endpoint.host}",
        model=name,
        binary=prompts.zero_shot("binary"),
        ternary=prompts.zero_shot("ternary"),
    )


class FeedbackDecoder:
    """A decoder of turns with its model, which is loaded on construction.

    Args:
        config: see DecoderConfig.
        local: the model, if it is loaded already; else it is loaded as `config` says.

    Raises:
        ModelNotFoundError: the model is not on this machine; or it has no chat template, and the prompt needs one.
    """

    def __init__(self, config: DecoderConfig, local: LocalModel | None = None) -> None:
        from respect_core.feedback.endpoint_scorer import EndpointScorer
        from respect_core.feedback.scoring import LabelScorer

        self.config, self.local = config, local
        self.scorer: LabelScorer | EndpointScorer
        if config.model.startswith(_OPENAI):
            endpoint = Endpoint.named(config.model)
            self.scorer = EndpointScorer(endpoint)
            # It has a tokenizer and a template of its own, and tells nothing of its weights.
            self.tokenizer, self.revision = local_models.load_tokenizer("smollm2"), config.name
            self.render_chat: Callable[[str], str] | None = str
            return
        local = self.local = local or local_models.load(
            config.model, config.gguf_file, dtype=config.dtype, local_files_only=config.local_files_only
        )
        self.scorer = LabelScorer(local, config.token_budget)
        self.tokenizer, self.render_chat, self.revision = local.tokenizer, local.render_chat, local.revision

    @cached_property
    def read(self) -> Reader:
        """The reader of quoted texts, which cuts them so that every prompt fits the model.

        Raises:
            ValueError: the prompts leave no room for utterances.
        """
        empty = Exchange("", "", "", "")
        both = (self.config.binary, self.config.ternary)
        room = min(self.scorer.room(self._render(prompt, empty), words_of(prompt)) for prompt in both)
        longest = min(self.config.longest, int(room) // 4 - 2)  # joining a text to the prompt may add two tokens
        if longest < SHORTEST:
            raise ValueError(f"the prompts of {self.config.name} leave no room in the model's context; shorten them")
        return Reader(self.tokenizer, longest)

    @property
    def precision(self) -> str:
        """The precision of the scores; that of an endpoint is not known."""
        return self.local.precision if self.local is not None else "unknown"

    @property
    def tokens(self) -> int:
        """Tokens that went through the model so far, without the start that all prompts share."""
        return self.scorer.tokens

    def decode(
        self,
        rows: Iterable[Mapping[str, Any]],
        kinds: Sequence[Kind] = ("binary", "ternary"),
        progress: Progress | None = None,
    ) -> list[dict[str, Any]]:
        """Decode the turns that have a follow-up: return feedback rows, kind by kind, in the order of `rows`.

        If the device runs out of memory, passes take half as many tokens from then on.

        Args:
            rows: rows of a turns table, in any order, whole interactions: the turn before each is looked up here.
            progress: called with the number of distinct prompts done and their total, over both kinds where their
                prompts differ.

        Raises:
            ValueError: two rows for one turn; a turn whose predecessor is absent.
            LabelError: the model's tokenizer cannot tell the label words apart.
            torch.OutOfMemoryError: the device lacks the memory even for one prompt.
        """
        turns = [(row, *self._quote(exchange)) for row, exchange in exchanges(rows)]
        quotes, feedback = [quote for _, quote, _ in turns], []
        for kind, odds_N2 in zip(kinds, self._odds(quotes, kinds, progress), strict=True):
            constants = self._constants(kind)
            for (row, _, marks), (score, neutral_odds) in zip(turns, odds_N2.tolist(), strict=True):
                feedback.append(self._feedback(row, kind, score, neutral_odds) | marks | constants)
        return feedback

    def _quote(self, exchange: Exchange) -> tuple[Exchange, dict[str, Any]]:
        """Return the exchange as the prompts quote it, and the columns that record how it was changed."""
        readings = {name: self.read(text) for name, text in vars(exchange).items() if text is not None}
        marks = sorted(set[str]().union(*(each.marks for each in readings.values())))
        columns = {"marked": ", ".join(marks) or None, "cut": any(each.cut for each in readings.values())}
        return replace(exchange, **{name: each.text for name, each in readings.items()}), columns

    def _odds(self, quotes: list[Exchange], kinds: Sequence[Kind], progress: Progress | None) -> list[Tensor]:
        """Compute the log-odds that `Thresholds` apply to, [N, 2] for each kind.

        Kinds with the same prompts and words share their passes.
        """
        scores: dict[tuple[str, ...], Tensor] = {}
        result = []
        for kind in kinds:
            prompt = self.config.prompt(kind)
            openings = [replace(each, follow_up=prompts.opening(each.follow_up)) for each in quotes]
            texts = [self._render(prompt, each) for each in (*quotes, *(openings if prompt.openings else ()))]
            words = words_of(prompt)
            key = (*words, *texts)
            if key not in scores:
                samples = [self._render(prompt, each) for each in _UNLIKE]
                scores[key] = self._score_within_memory(texts, words, samples, progress)
            odds_N2 = _odds_of_words(scores[key], prompt)
            whole_N2, openings_N2 = odds_N2[: len(quotes)], odds_N2[len(quotes) :]
            result.append(whole_N2.minimum(openings_N2) if prompt.openings else whole_N2)
        return result

    def _score_within_memory(
        self, texts: list[str], words: list[str], samples: list[str], progress: Progress | None
    ) -> Tensor:
        """Score the words after the texts, [N, words], in passes that fit into the device's memory."""
        from respect_core.model.memory import fitting

        def score(token_budget: int) -> Tensor:
            self.scorer.token_budget = token_budget
            return self.scorer.score(texts, words, samples, progress)

        return fitting(score, self.scorer.token_budget, "tokens")[0]

    def _render(self, prompt: Prompt, exchange: Exchange) -> str:
        text = prompt.text(exchange)
        if prompt.family == "few_shot":
            return text
        if self.render_chat is None:
            raise ModelNotFoundError(
                f"{self.config.model} has no chat template, which figure 3 needs; use a few-shot prompt"
            )
        return self.render_chat(text)

    def _feedback(self, row: Mapping[str, Any], kind: Kind, score: float, neutral_odds: float) -> dict[str, Any]:
        thresholds = self.config.thresholds(kind)
        return {
            **{key: row[key] for key in ("interaction_id", "round", "variant", "turn")},
            "decoder": kind,
            "label": thresholds.label(score, neutral_odds),
            "score": score,
            "low_margin": abs(score - thresholds.positive) < self.config.margin,
        }

    def _constants(self, kind: Kind) -> dict[str, str]:
        """Return the columns that are the same in every row of a kind."""
        return {
            "decoder_model": self.config.name,
            "decoder_revision": self.revision,
            "prompt_hash": self.config.prompt(kind).hash(),
            "thresholds": json.dumps(asdict(self.config.thresholds(kind)), sort_keys=True),
        }


def _odds_of_words(scores_NW: Tensor, prompt: Prompt) -> Tensor:
    """Return log P(positive) against the best other label, and neutral against negative, [N, 2].

    Without a word for neutral, the second is the first again.
    """
    import torch

    parts = scores_NW.double().split([len(words) for words in prompt.words.values()], dim=1)
    by_label = {label: part.mean(1) for label, part in zip(prompt.words, parts, strict=True)}
    positive_N = by_label.pop(POSITIVE)
    score_N = positive_N - torch.stack([*by_label.values()]).amax(0)
    neutral_N = by_label[NEUTRAL] - by_label[NEGATIVE] if NEUTRAL in by_label else score_N
    return torch.stack([score_N, neutral_N], dim=1)


def words_of(prompt: Prompt) -> list[str]:
    """Return the words of all labels, label by label."""
    return [word for synonyms in prompt.words.values() for word in synonyms]


# These share nothing but the template, so that the common start of their prompts is the template's.
_UNLIKE = (Exchange(None, "a", "b", "c"), Exchange("Z", "9", "8", "7"))


def exchanges(rows: Iterable[Mapping[str, Any]]) -> Iterable[tuple[Mapping[str, Any], Exchange]]:
    """Yield the turns with a follow-up, each with the exchange around it. Raises ValueError as `decode` does."""
    rows = list(rows)
    actions: dict[tuple[str, int], str] = {}
    for row in rows:
        key = row["interaction_id"], row["turn"]
        if key in actions:
            raise ValueError(f"turn {key[1]} of interaction {key[0]} is given twice; give each turn once")
        actions[key] = row["action"]
    for row in rows:
        if not normalised(row["follow_up"] or "").strip():
            continue
        before = row["interaction_id"], row["turn"] - 1
        if row["turn"] > 0 and before not in actions:
            raise ValueError(f"turn {before[1]} of interaction {before[0]} is absent; give whole interactions")
        yield row, Exchange(actions.get(before), row["utterance"], row["action"], row["follow_up"])
