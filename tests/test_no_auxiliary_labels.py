"""The paper's promise: nothing that is learned from can contain a target or an outcome."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from samples import game, logs

import respect_core
from respect_core.interaction import Interaction, Turn
from respect_core.log.records import InteractionLog, Outcome, from_log, turn_rows
from respect_core.schemas import FEEDBACK_SCHEMA, TRAINING_SET_SCHEMA, TURNS_SCHEMA

ROOT = Path(respect_core.__file__).parent
FORBIDDEN_WORDS = ("target", "outcome", "success", "reward", "correct")

# What a policy is trained by, from the tables on. Modules that do not exist yet are held to it when they do.
LEARNING_PATH = [
    "base",
    "chat",
    "features",
    "feedback",
    "losses",
    "objectives",
    "packing",
    "policy",
    "prompts",
    "rehearsal",
    "rounds",
    "sampling",
    "training",
    "training_sets",
    "variants",
]
# What knows targets or outcomes: modules, and names of `interaction`.
KNOWING = {
    f"respect_core.{name}"
    for name in (
        *("labels", "metrics", "turn_metrics", "decoder_metrics", "comparison", "human_eval", "annotation_tasks"),
        *("cell", "evidence", "case_studies", "candidates"),
        *("export", "log_columns", "released", "multiref.game", "multiref.speakers"),
    )
}
KNOWING |= {f"respect_core.interaction.{name}" for name in ("InteractionLog", "Outcome", "OUTCOMES_SCHEMA")}
KNOWING |= {"respect_core.interaction.outcome_row", "respect_core.interaction.ANNOTATIONS_SCHEMA"}


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


@pytest.mark.parametrize("name", LEARNING_PATH)
def test_the_learning_path_does_not_import_or_read_it(name: str) -> None:
    for module, source in _reached(f"respect_core.{name}").items():
        if module in _TABLES:
            continue  # these name every schema; which table is read is said by their caller
        tree = ast.parse(source.read_text())
        assert not set(_imports(tree)) & KNOWING, f"{source}: {set(_imports(tree)) & KNOWING}"
        touched = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        assert "outcome" not in touched, source
        constants = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
        assert not constants & {"outcomes", "outcome", "success"}, source


_TABLES = {"respect_core.interaction", "respect_core.log.log", "respect_core.store.tables"}


def _reached(start: str) -> dict[str, Path]:
    """The project's modules that importing one brings along, and their files; none when it does not exist."""
    found: dict[str, Path] = {}
    waiting = [start]
    while waiting:
        module = waiting.pop()
        base = ROOT.parent.joinpath(*module.split("."))
        source = next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)
        if source is not None and module not in found:
            found[module] = source
            imported = _imports(ast.parse(source.read_text()))
            waiting += [each for each in imported if each.startswith("respect_core.")]
    return found


def _imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
