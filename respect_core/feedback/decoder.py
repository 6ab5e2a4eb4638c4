"""The feedback decoder phi: turns and what was said next -> positive, neutral, negative (section 4.1, appendix F).

Deviations from the paper:

1. Labels come from the log-probabilities of the label words and thresholds on them, not from a generated word. The
   paper's reading, the most probable word, is the threshold 0.
2. Small models get a few-shot prompt (`feedback.prompts`), and their thresholds were chosen on real games by
   cross-validation (docs/decoder.md), because their raw log-odds are off.
3. Where the prompt has no word for neutral, the ternary decoder calls neutral what lies between two thresholds.
4. What is said is read by `respect_core.utterances.Reader`: nothing in it can be taken for the prompt, and of a very
   long text the middle is left out. Turns in which something was neutralised are marked, and nobody learns from them.
5. With a few-shot prompt a reply is no more positive than its first clause: praise that follows a refusal, said in
   earnest or to be decoded as praise, is no approval of what the listener did.

The decoder sees turns: no target, no outcome (section 4.1). The last turn of an interaction has no follow-up and is
not decoded (footnote 3).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from respect_core.feedback import prompts
from respect_core.feedback.prompts import NEGATIVE, NEUTRAL, POSITIVE, Exchange, Kind, Prompt
from respect_core.model import local as local_models
from respect_core.model.local import Dtype, LocalModel, ModelNotFoundError
from respect_core.utterances import Reader, normalised

if TYPE_CHECKING:  # torch takes seconds to import; who only names a decoder does without
    from torch import Tensor

    from respect_core.feedback.scoring import Progress

SHORTEST = 8  # tokens of an utterance that a model must have room for, after the prompt


@dataclass(frozen=True)
class Thresholds:
    """On log-odds, in nats.

    Positive where the score, log P(positive) - max log P(another label), is at least `positive`. Else neutral where
    log P(neutral) - log P(negative), or without a word for neutral the score, is at least `neutral`; never neutral
    where that is None. Else negative.
    """

    positive: float = 0.0
    neutral: float | None = None

    def label(self, score: float, neutral_odds: float) -> int:
        """+1, 0 or -1."""
        if score >= self.positive:
            return POSITIVE
        return NEUTRAL if self.neutral is not None and neutral_odds >= self.neutral else NEGATIVE


@dataclass(frozen=True)
class DecoderConfig:
    """A feedback decoder in full.

    `margin` (nats): scores nearer than this to the positive threshold are marked as low margin. `token_budget`: most
    tokens in one pass. `longest`: most tokens that are read of one utterance or action. `model` is a folder or hub id;
    `name` is what the feedback table calls it.
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
    """The decoder that a profile names: one of the functions below."""
    config: DecoderConfig = {"idefics2_8b": idefics2_8b, "smollm2": smollm2}[name]()
    return config


def idefics2_8b() -> DecoderConfig:
    """The paper's decoder: the original IDEFICS2-8B, text only, figure 3, the most probable word."""
    return DecoderConfig(
        name="HuggingFaceM4/idefics2-8b",
        model="HuggingFaceM4/idefics2-8b",
        binary=prompts.zero_shot("binary"),
        ternary=prompts.zero_shot("ternary"),
        token_budget=2048,
    )


def smollm2() -> DecoderConfig:
    """SmolLM2-135M-Instruct on worked examples: what a laptop can run. Thresholds: docs/decoder.md.

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


class FeedbackDecoder:
    """Decodes turns with one model. Building one loads the model.

    Args:
        config: see DecoderConfig.
        local: the model where it is loaded already; else it is loaded as `config` says.

    Raises:
        ModelNotFoundError: the model is not on this machine; or it has no chat template, and the prompt needs one.
    """

    def __init__(self, config: DecoderConfig, local: LocalModel | None = None) -> None:
        from respect_core.feedback.scoring import LabelScorer

        self.config = config
        self.local = local or local_models.load(
            config.model, config.gguf_file, dtype=config.dtype, local_files_only=config.local_files_only
        )
        self.scorer = LabelScorer(self.local, config.token_budget)

    @cached_property
    def read(self) -> Reader:
        """Reads what the prompts quote, cut so that every prompt fits the model.

        Raises:
            ValueError: the prompts leave no room for utterances.
        """
        empty, used = Exchange("", "", "", ""), (self.config.binary, self.config.ternary)
        room = min(self.scorer.room(self._render(prompt, empty), words_of(prompt)) for prompt in used)
        longest = min(self.config.longest, int(room) // 4 - 2)  # up to two tokens more where a text joins the prompt
        if longest < SHORTEST:
            raise ValueError(f"the prompts of {self.config.name} leave no room in the model's context; shorten them")
        return Reader(self.local.tokenizer, longest)

    @property
    def tokens(self) -> int:
        """That went through the model since this was made, without the start that all prompts share."""
        return self.scorer.tokens

    def decode(
        self,
        rows: Iterable[Mapping[str, Any]],
        kinds: Sequence[Kind] = ("binary", "ternary"),
        progress: Progress | None = None,
    ) -> list[dict[str, Any]]:
        """Rows of the feedback table, kind by kind, for the turns that have a follow-up, in the order given.

        Where the device runs out of memory, passes have half as many tokens from then on.

        Args:
            rows: rows of a turns table, in any order, whole interactions: the turn before each is looked up here.
            progress: called with distinct prompts done and distinct prompts in all, over both kinds where their
                prompts differ.

        Raises:
            ValueError: two rows for one turn; a turn whose predecessor is absent.
            LabelError: the model's tokenizer cannot tell the label words apart.
            torch.OutOfMemoryError: the device has not even the memory for one prompt.
        """
        heard = [(row, *self._read(exchange)) for row, exchange in exchanges(rows)]
        said, decoded = [exchange for _, exchange, _ in heard], []
        for kind, odds_N2 in zip(kinds, self._odds(said, kinds, progress), strict=True):
            same = self._same_for_all(kind)
            for (row, _, marks), (score, neutral_odds) in zip(heard, odds_N2.tolist(), strict=True):
                decoded.append(self._feedback(row, kind, score, neutral_odds) | marks | same)
        return decoded

    def _read(self, exchange: Exchange) -> tuple[Exchange, dict[str, Any]]:
        """The exchange as the prompts quote it, and the columns that say what was done to it."""
        read = {name: self.read(said) for name, said in vars(exchange).items() if said is not None}
        marks = sorted(set[str]().union(*(each.marks for each in read.values())))
        columns = {"marked": ", ".join(marks) or None, "cut": any(each.cut for each in read.values())}
        return replace(exchange, **{name: each.text for name, each in read.items()}), columns

    def _odds(self, said: list[Exchange], kinds: Sequence[Kind], progress: Progress | None) -> list[Tensor]:
        """What `Thresholds` are on, [N, 2] for each kind; kinds with the same prompts and words share their passes."""
        scored: dict[tuple[str, ...], Tensor] = {}
        result = []
        for kind in kinds:
            prompt = self.config.prompt(kind)
            openings = [replace(each, follow_up=prompts.opening(each.follow_up)) for each in said]
            texts = [self._render(prompt, each) for each in (*said, *(openings if prompt.openings else ()))]
            words = words_of(prompt)
            key = (*words, *texts)
            if key not in scored:
                scored[key] = self._fitting(texts, words, [self._render(prompt, each) for each in _UNLIKE], progress)
            odds_N2 = _odds_of_words(scored[key], prompt)
            whole_N2, openings_N2 = odds_N2[: len(said)], odds_N2[len(said) :]
            result.append(whole_N2.minimum(openings_N2) if prompt.openings else whole_N2)
        return result

    def _fitting(self, texts: list[str], words: list[str], samples: list[str], progress: Progress | None) -> Tensor:
        """[N, words], in passes that the device has the memory for."""
        from respect_core.model.memory import fitting

        def score(token_budget: int) -> Tensor:
            self.scorer.token_budget = token_budget
            return self.scorer.score(texts, words, samples, progress)

        return fitting(score, self.scorer.token_budget, "tokens")[0]

    def _render(self, prompt: Prompt, exchange: Exchange) -> str:
        text = prompt.text(exchange)
        if prompt.family == "few_shot":
            return text
        if self.local.render_chat is None:
            raise ModelNotFoundError(
                f"{self.config.model} has no chat template, which figure 3 needs; use a few-shot prompt"
            )
        return self.local.render_chat(text)

    def _feedback(self, row: Mapping[str, Any], kind: Kind, score: float, neutral_odds: float) -> dict[str, Any]:
        thresholds = self.config.thresholds(kind)
        return {
            **{key: row[key] for key in ("interaction_id", "round", "variant", "turn")},
            "decoder": kind,
            "label": thresholds.label(score, neutral_odds),
            "score": score,
            "low_margin": abs(score - thresholds.positive) < self.config.margin,
        }

    def _same_for_all(self, kind: Kind) -> dict[str, str]:
        """Columns that are the same in every row of a kind."""
        return {
            "decoder_model": self.config.name,
            "decoder_revision": self.local.revision,
            "prompt_hash": self.config.prompt(kind).hash(),
            "thresholds": json.dumps(asdict(self.config.thresholds(kind)), sort_keys=True),
        }


def _odds_of_words(scores_NW: Tensor, prompt: Prompt) -> Tensor:
    """log P(positive) against the best other label, and neutral against negative or else the same again, [N, 2]."""
    import torch

    parts = scores_NW.double().split([len(words) for words in prompt.words.values()], dim=1)
    by_label = {label: part.mean(1) for label, part in zip(prompt.words, parts, strict=True)}
    positive_N = by_label.pop(POSITIVE)
    score_N = positive_N - torch.stack([*by_label.values()]).amax(0)
    neutral_N = by_label[NEUTRAL] - by_label[NEGATIVE] if NEUTRAL in by_label else score_N
    return torch.stack([score_N, neutral_N], dim=1)


def words_of(prompt: Prompt) -> list[str]:
    """The words of all labels, label by label."""
    return [word for synonyms in prompt.words.values() for word in synonyms]


# Share nothing but the template, so that what prompts of these have in common is the template's start.
_UNLIKE = (Exchange(None, "a", "b", "c"), Exchange("Z", "9", "8", "7"))


def exchanges(rows: Iterable[Mapping[str, Any]]) -> Iterable[tuple[Mapping[str, Any], Exchange]]:
    """The turns with a follow-up, each with what was said around it. Raises ValueError as `decode` does."""
    rows = list(rows)
    action: dict[tuple[str, int], str] = {}
    for row in rows:
        key = row["interaction_id"], row["turn"]
        if key in action:
            raise ValueError(f"turn {key[1]} of interaction {key[0]} is given twice; give each turn once")
        action[key] = row["action"]
    for row in rows:
        if not normalised(row["follow_up"] or "").strip():
            continue
        before = row["interaction_id"], row["turn"] - 1
        if row["turn"] > 0 and before not in action:
            raise ValueError(f"turn {before[1]} of interaction {before[0]} is absent; give whole interactions")
        yield row, Exchange(action.get(before), row["utterance"], row["action"], row["follow_up"])
