"""The paper's promise: nothing that is learned from can contain a target or an outcome."""

from __future__ import annotations

import ast

import pytest
from hypothesis import given
from paths import REPOSITORY
from samples import game, logs

from respect_core.interaction import Interaction, Turn
from respect_core.log.records import InteractionLog, Outcome, from_log, turn_rows
from respect_core.schemas import FEEDBACK_SCHEMA, TRAINING_SET_SCHEMA, TURNS_SCHEMA

FORBIDDEN_WORDS = ("target", "outcome", "success", "reward", "correct")
LEARNING_PATH = ("model", "feedback", "training_data", "acting", "learning")
"""Packages that a policy is trained by, from the tables on. `make check` holds that they import nothing that measures,
and no record with an outcome."""


@pytest.mark.parametrize("schema", [TURNS_SCHEMA, FEEDBACK_SCHEMA, TRAINING_SET_SCHEMA], ids=lambda s: str(s.metadata))
def test_no_column_for_it(schema) -> None:
    assert [name for name in schema.names if any(word in name for word in FORBIDDEN_WORDS)] == []


def test_no_field_for_it() -> None:
    fields = {*Interaction.__dataclass_fields__, *Turn.__dataclass_fields__}
    assert [name for name in fields if any(word in name for word in FORBIDDEN_WORDS)] == []


@given(log=logs())
def test_turns_are_the_same_whatever_the_outcome(log: InteractionLog) -> None:
    outcomes = [None, Outcome(targets=[], success=True), Outcome(targets=log.context, success=False)]
    variants = [log.model_copy(update={"outcome": outcome}) for outcome in outcomes]
    assert all(turn_rows(variant) == turn_rows(log) for variant in variants)
    assert all(from_log(variant) == from_log(log) for variant in variants)
    assert {name for row in turn_rows(log) for name in row} == set(TURNS_SCHEMA.names)


def test_reading_the_outcome_would_fail() -> None:
    """turn_rows does not touch the field: it works on a log that has none."""
    log = game()
    object.__delattr__(log, "outcome")
    assert len(turn_rows(log)) == 3


@pytest.mark.parametrize("package", LEARNING_PATH)
def test_the_learning_path_does_not_read_it(package: str) -> None:
    files = sorted((REPOSITORY / "respect_core" / package).rglob("*.py"))
    assert files
    for source in files:
        tree = ast.parse(source.read_text())
        assert "outcome" not in {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}, source
        constants = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
        assert not constants & {"outcomes", "outcome", "success"}, source


def test_the_scenario_port_names_no_outcome() -> None:
    tree = ast.parse((REPOSITORY / "respect_core" / "scenario.py").read_text())
    named = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    named |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    assert not [name for name in named if any(word in name.lower() for word in FORBIDDEN_WORDS)]
