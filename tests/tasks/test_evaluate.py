"""Comparing policies turn by turn, by hand."""

from __future__ import annotations

import pytest
from samples import game

from tasks.evaluate import compare
from tasks.references import EvaluatedRef, RegisteredRef


def _evaluated(variant: str, *right: bool) -> EvaluatedRef:
    policy = RegisteredRef(variant=variant, model=f"respect.{variant}", version="1", run_id="r", adapter_hash="h")
    keys = [("g1", 0), ("g1", 1), ("g2", 2)]
    turns = [(*key, each) for key, each in zip(keys, right, strict=True)]
    return EvaluatedRef(policy=policy, turns=turns, illegal_actions=1, seconds=0.0)


def test_exact_match_difference_and_chance_by_hand() -> None:
    """The sample game: select C; deselect C select D; select A."""
    logs = [game("g1"), game("g2")]
    result = compare(logs, [_evaluated("seed", True, False, False), _evaluated("b-fft", True, True, False)])
    assert (result["games"], result["turns"]) == (2, 3)
    assert result["policies"]["seed"]["exact_match"] == pytest.approx(1 / 3)
    assert result["policies"]["b-fft"]["exact_match"] == pytest.approx(2 / 3)
    assert result["policies"]["b-fft"]["over_seed"]["exact_match"] == pytest.approx(1 / 3)
    assert result["policies"]["seed"]["over_seed"]["exact_match"] == 0
    assert result["chance"]["single click"]["exact_match"] == pytest.approx((0.1 + 0 + 0.1) / 3)
    assert result["chance"]["kind and number"]["exact_match"] == pytest.approx((1 / 10 + 1 / 9 + 1 / 9) / 3)
