"""The feedback decoder phi: turns and what was said next -> positive, neutral, negative (section 4.1, appendix F).

Deviations from the paper:

1. Labels come from the log-probabilities of the label words and thresholds on them, not from a generated word. The
   paper's reading, the most probable word, is the threshold 0.
2. Small models get a few-shot prompt (`respect_core.prompts`), and their thresholds were chosen on real games by
   cross-validation (docs/decoder.md), because their raw log-odds are off.
3. Where the prompt has no word for neutral, the ternary decoder calls neutral what lies between two thresholds.
4. Utterances are cut at 1,000 characters, so that one pasted page cannot stop a round.

The decoder sees turns: no target, no outcome (section 4.1). The last turn of an interaction has no follow-up and is
not decoded (footnote 3).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from respect_core import local_models, prompts
from respect_core.local_models import Dtype, LocalModel, ModelNotFound
from respect_core.prompts import NEGATIVE, NEUTRAL, POSITIVE, Exchange, Kind, Prompt

if TYPE_CHECKING:  # torch takes seconds to import; who only names a decoder does without
    from torch import Tensor

    from respect_core.label_scoring import Progress

LONGEST = 1000  # characters of an utterance that the decoder reads


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
    tokens in one pass. `model` is a folder or hub id; `name` is what the feedback table calls it.
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
        ModelNotFound: the weights are not on this machine.
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
        ModelNotFound: the model is not on this machine; or it has no chat template, and the prompt needs one.
    """

    def __init__(self, config: DecoderConfig, local: LocalModel | None = None) -> None:
        from respect_core.label_scoring import LabelScorer

        self.config = config
        self.local = local or local_models.load(
            config.model, config.gguf_file, dtype=config.dtype, local_files_only=config.local_files_only
        )
        self.scorer = LabelScorer(self.local, config.token_budget)

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
        pairs = list(exchanges(rows))
        decoded = []
        for kind, scores_NW in zip(kinds, self._scores([each for _, each in pairs], kinds, progress), strict=True):
            words = self.config.prompt(kind).words
            by_label = [
                part.mean(1).tolist() for part in scores_NW.split([len(each) for each in words.values()], dim=1)
            ]
            same = self._same_for_all(kind)
            for (row, _), *scores in zip(pairs, *by_label, strict=True):
                decoded.append(self._feedback(row, kind, dict(zip(words, scores, strict=True))) | same)
        return decoded

    def _scores(self, found: list[Exchange], kinds: Sequence[Kind], progress: Progress | None) -> list[Tensor]:
        """[N, words of the kind] for each kind; kinds with the same prompts and words share their passes."""
        scored: dict[tuple[str, ...], Tensor] = {}
        result = []
        for kind in kinds:
            prompt = self.config.prompt(kind)
            words = [word for synonyms in prompt.words.values() for word in synonyms]
            texts = [self._render(prompt, each) for each in found]
            key = (*words, *texts)
            if key not in scored:
                scored[key] = self._fitting(texts, words, [self._render(prompt, each) for each in _UNLIKE], progress)
            result.append(scored[key])
        return result

    def _fitting(self, texts: list[str], words: list[str], samples: list[str], progress: Progress | None) -> Tensor:
        """[N, words], in passes that the device has the memory for."""
        from respect_core.memory import fitting

        def score(token_budget: int) -> Tensor:
            self.scorer.token_budget = token_budget
            return self.scorer.score(texts, words, samples, progress)

        return fitting(score, self.scorer.token_budget, "tokens")[0]

    def _render(self, prompt: Prompt, exchange: Exchange) -> str:
        text = prompt.text(exchange)
        if prompt.family == "few_shot":
            return text
        if self.local.render_chat is None:
            raise ModelNotFound(
                f"{self.config.model} has no chat template, which figure 3 needs; use a few-shot prompt"
            )
        return self.local.render_chat(text)

    def _feedback(self, row: Mapping[str, Any], kind: Kind, scores: Mapping[int, float]) -> dict[str, Any]:
        thresholds = self.config.thresholds(kind)
        score = scores[POSITIVE] - max(value for label, value in scores.items() if label != POSITIVE)
        neutral_odds = scores[NEUTRAL] - scores[NEGATIVE] if NEUTRAL in scores else score
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


# Share nothing but the template, so that what prompts of these have in common is the template's start.
_UNLIKE = (Exchange(None, "a", "b", "c"), Exchange("Z", "9", "8", "7"))


def exchanges(rows: Iterable[Mapping[str, Any]]) -> Iterable[tuple[Mapping[str, Any], Exchange]]:
    """The turns with a follow-up, each with what the decoder sees of it. Raises ValueError as `decode` does."""
    rows = list(rows)
    action: dict[tuple[str, int], str] = {}
    for row in rows:
        key = row["interaction_id"], row["turn"]
        if key in action:
            raise ValueError(f"turn {key[1]} of interaction {key[0]} is given twice; give each turn once")
        action[key] = row["action"]
    for row in rows:
        if not (row["follow_up"] or "").strip():
            continue
        before = row["interaction_id"], row["turn"] - 1
        if row["turn"] > 0 and before not in action:
            raise ValueError(f"turn {before[1]} of interaction {before[0]} is absent; give whole interactions")
        exchange = Exchange(action.get(before), row["utterance"][:LONGEST], row["action"], row["follow_up"][:LONGEST])
        yield row, exchange
