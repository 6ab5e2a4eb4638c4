"""A decoder's figures on labelled follow-ups, with a rule for a decoder, against arithmetic by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from deployments.cli.decoding import decoding_app
from respect_core.feedback import decoder as decoders
from respect_core.measuring import decoder_rows
from respect_core.measuring.decoder_metrics import auc
from respect_core.measuring.decoder_rows import Row, RowError

SCORES = st.lists(st.integers(0, 5), min_size=1, max_size=20).map(lambda values: np.array(values, float))


class ByNumber:
    """Takes the number that a follow-up is for its score; below 0 it is negative, above 2 positive."""

    config = decoders.DecoderConfig("by number", "", *[None] * 2)  # type: ignore[arg-type]  # no prompts
    tokens = 12

    def __init__(self, config: Any) -> None:
        pass

    def decode(self, turns: list[dict[str, Any]], kinds: Any, progress: Any) -> list[dict[str, Any]]:
        scores = [float(turn["follow_up"]) for turn in turns]
        labels = [-1 if score < 0 else 1 if score > 2 else 0 for score in scores]
        return [
            {"interaction_id": turn["interaction_id"], "score": score, "label": label}
            for turn, score, label in zip(turns, scores, labels, strict=True)
        ]


ROWS = [
    *(("-3", "negative"), ("1", "negative")),
    *(("-1", "neutral"), ("0", "neutral")),
    *(("4", "positive"), ("1", "positive")),
]


@given(SCORES, SCORES)
def test_auc_counts_pairs(lower: np.ndarray, higher: np.ndarray) -> None:
    pairs = [1.0 if low < high else 0.5 if low == high else 0.0 for low in lower for high in higher]
    assert auc(lower, higher) == pytest.approx(sum(pairs) / len(pairs))


def test_figures_by_hand() -> None:
    rows = [Row(answer="a", followup=text, label=label) for text, label in ROWS]  # type: ignore[arg-type]  # checked
    figures = decoder_rows.evaluate(ByNumber(None), rows)  # type: ignore[arg-type]  # stands in for a decoder
    assert (figures.turns, figures.negative, figures.neutral, figures.positive) == (6, 2, 2, 2)
    values = figures.to_json()
    assert values["auc_negative_positive"] == pytest.approx((1 + 1 + 1 + 0.5) / 4)
    assert values["auc_negative_rest"] == pytest.approx((4 + 0 + 0 + 1 + 0.5) / 8)
    assert values["precision_negative"] == pytest.approx(1 / 2)  # -3 and -1 are decoded as negative
    assert values["recall_negative"] == pytest.approx(1 / 2)
    for name in ("auc_negative_positive", "precision_negative"):
        low, high = values[f"{name}_ci95"]
        assert low <= values[name] <= high


def test_what_is_not_there_is_undefined() -> None:
    rows = [Row(answer="a", followup=text, label="positive") for text in ("3", "4")]
    figures = decoder_rows.evaluate(ByNumber(None), rows)  # type: ignore[arg-type]  # stands in for a decoder
    assert figures.auc_negative_positive is None and figures.precision_negative is None


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ('{"answer": "a", "followup": "b", "label": "bad"}', "line 2: label: .*'negative', 'neutral' or 'positive'"),
        ('{"answer": "a", "followup": " ", "label": "neutral"}', "line 2: followup: "),
        ('{"followup": "b", "label": "neutral"}', "line 2: answer: Field required"),
        ("not JSON", "line 2: the line: Invalid JSON"),
    ],
)
def test_a_row_that_cannot_be_used_is_named(tmp_path: Path, line: str, complaint: str) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(f'{{"answer": "a", "followup": "b", "label": "neutral"}}\n{line}\n')
    with pytest.raises(RowError, match=complaint):
        decoder_rows.read(file)
    file.write_text("\n")
    with pytest.raises(RowError, match="no rows"):
        decoder_rows.read(file)


def test_the_command_writes_what_it_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoders, "FeedbackDecoder", ByNumber)
    rows, out = tmp_path / "rows.jsonl", tmp_path / "figures.json"
    rows.write_text("".join(json.dumps({"answer": "a", "followup": f, "label": label}) + "\n" for f, label in ROWS))
    result = CliRunner().invoke(decoding_app, ["evaluate-decoder", str(rows), "--json", str(out)])
    assert result.exit_code == 0, result.output
    written = json.loads(out.read_text())
    assert written["turns"] == 6 and f"{written['auc_negative_rest']:.3f}" in result.output
    assert "tokens: 12" in result.output
    (tmp_path / "bad.jsonl").write_text("{}\n")
    refused = CliRunner().invoke(decoding_app, ["evaluate-decoder", str(tmp_path / "bad.jsonl")])
    assert refused.exit_code == 1 and "answer" in refused.output
