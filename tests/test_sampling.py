"""Eligibility, rehearsal, training sets and the batches of an epoch."""

from __future__ import annotations

import inspect
from dataclasses import replace

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from respect_core import actions, rehearsal, sampling
from respect_core.interaction import (
    FEEDBACK_SCHEMA,
    OUTCOMES_SCHEMA,
    TRAINING_SET_SCHEMA,
    TURNS_SCHEMA,
    Interaction,
    InteractionLog,
    LoggedTurn,
    Outcome,
    PolicyIdentity,
    Turn,
    turn_rows,
)
from respect_core.sampling import Example
from respect_core.variants import Objective, Variant, fft, kto, rl

IMAGES = [f"tangram-{n}" for n in range(10)]
EMPTY_TURNS, EMPTY_FEEDBACK = TURNS_SCHEMA.empty_table(), FEEDBACK_SCHEMA.empty_table()


def _log(name: str, *played: str, probability: float | None = 0.5) -> InteractionLog:
    return InteractionLog(
        interaction_id=name,
        round=0,
        variant="seed",
        policy=PolicyIdentity(name="seed", version="1"),
        user="user",
        started_at="2026-01-01T00:00:00",
        context=IMAGES,
        turns=[LoggedTurn(utterance=f"say {n}", action=a, probability=probability) for n, a in enumerate(played)],
        outcome=Outcome(targets=IMAGES[:3], success=True),
    )


def _turns(*logs: InteractionLog) -> pa.Table:
    return pa.Table.from_pylist([row for log in logs for row in turn_rows(log)], schema=TURNS_SCHEMA)


def _feedback(labels: dict[tuple[str, int], int], decoder: str = "binary") -> pa.Table:
    fixed = {"round": 0, "variant": "seed", "decoder": decoder, "score": 1.0, "low_margin": False}
    fixed |= {"decoder_model": "m", "decoder_revision": "r", "prompt_hash": "p", "thresholds": "{}"}
    rows = [{"interaction_id": game, "turn": turn, "label": label} | fixed for (game, turn), label in labels.items()]
    return pa.Table.from_pylist(rows, schema=FEEDBACK_SCHEMA)


GAME = _log("g1", "select A", "select B C", "nothing", "deselect A select D", "select E")
LABELS = {("g1", 0): 1, ("g1", 1): -1, ("g1", 2): 1, ("g1", 3): 0, ("g1", 4): 1}


# --- eligibility and training sets ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variant", "expected"),
    [
        (Variant.B_FFT, {("g1", 0): 1}),
        (Variant.B_RL, {("g1", 0): 1, ("g1", 1): -1}),
        (Variant.B_KTO, {("g1", 0): 1, ("g1", 1): -1}),
    ],
)
def test_eligible_turns(variant: Variant, expected: dict[tuple[str, int], int]) -> None:
    """Neutral turns, `nothing` and the turn without a follow-up never are."""
    assert sampling.eligible(_turns(GAME), _feedback(LABELS), variant) == expected


def test_each_variant_reads_its_own_decoder() -> None:
    feedback = pa.concat_tables([_feedback({("g1", 0): -1}), _feedback({("g1", 0): 1}, "ternary")])
    assert sampling.eligible(_turns(GAME), feedback, Variant.T_FFT) == {("g1", 0): 1}
    assert sampling.eligible(_turns(GAME), feedback, Variant.B_RL) == {("g1", 0): -1}
    twice = pa.concat_tables([_feedback({("g1", 0): -1}), _feedback({("g1", 0): 1})])
    with pytest.raises(ValueError, match="two binary labels for turn 0 of g1"):
        sampling.eligible(_turns(GAME), twice, Variant.B_RL)


def test_training_set_keeps_whole_games_and_is_deterministic() -> None:
    other = _log("g0", "select A", "select B")
    d0 = _turns(_log("h1", "select A", "select B", "select C D", probability=None))
    tables = [
        sampling.training_set(turns, _feedback(LABELS), d0, Variant.B_RL, deselection_ratio=2 / 3, seed=3)
        for turns in (_turns(GAME, other), _turns(other, GAME))
    ]
    assert tables[0].equals(tables[1])
    assert tables[0].schema.equals(TRAINING_SET_SCHEMA)
    rows = tables[0].to_pylist()
    assert [row["label"] for row in rows if row["source"] == "round"] == [1, -1, None, None, None]
    assert {row["interaction_id"] for row in rows if row["source"] == "round"} == {"g1"}  # g0 has no feedback
    assert [row["label"] for row in rows if row["source"] == "rehearsal"] == [1, 1, 1]
    assert {row["source"] for row in rows} == {"round", "rehearsal", "undo", "clear"}
    with pytest.raises(ValueError, match="in the turns table and in D0"):
        sampling.training_set(_turns(GAME), _feedback(LABELS), _turns(GAME), Variant.B_RL)


def test_seed_policy_learns_from_d0_alone() -> None:
    table = sampling.training_set(EMPTY_TURNS, EMPTY_FEEDBACK, _turns(GAME), None, deselection_ratio=0)
    assert table["label"].to_pylist() == [1, 1, None, 1, 1]  # the last turn counts: people, not feedback, vouch for it
    right = sampling.training_set(
        EMPTY_TURNS, EMPTY_FEEDBACK, _turns(GAME), None, deselection_ratio=0, d0_right=frozenset({("g1", 1)})
    )
    assert right["label"].to_pylist() == [None, 1, None, None, None]


def test_neither_targets_nor_outcomes_can_come_in() -> None:
    """The only inputs are turns, feedback and D0, and a table with a column more is refused."""
    parameters = set(inspect.signature(sampling.training_set).parameters)
    assert parameters == {"turns", "feedback", "d0", "variant", "deselection_ratio", "d0_right", "seed"}
    assert not {"targets", "success"} & set(TRAINING_SET_SCHEMA.names)
    with_targets = _turns(GAME).append_column("targets", pa.array([IMAGES[:3]] * 5))
    for turns, d0 in ((with_targets, EMPTY_TURNS), (EMPTY_TURNS, with_targets)):
        with pytest.raises(ValueError, match="targets"):
            sampling.training_set(turns, EMPTY_FEEDBACK, d0, Variant.B_FFT)
    with pytest.raises(ValueError, match="no turns table"):
        sampling.training_set(OUTCOMES_SCHEMA.empty_table(), EMPTY_FEEDBACK, EMPTY_TURNS, Variant.B_FFT)


def _replay(table: pa.Table) -> None:
    """Fails unless every game of a training set is legal from first to last turn."""
    for example in sampling.examples(table):
        state = ""
        for turn in example.interaction.turns:
            assert turn.state == state
            assert turn.action is not None
            state = actions.apply(actions.parse(turn.action), state)


def test_deselection_augmentation() -> None:
    d0 = _turns(*(_log(f"h{n:02}", "select A", "select B C", "deselect B select D", "select E") for n in range(30)))
    table = sampling.training_set(EMPTY_TURNS, EMPTY_FEEDBACK, d0, None, seed=1)
    _replay(table)
    rows = table.to_pylist()
    added = [row for row in rows if row["source"] in ("undo", "clear") and row["label"] == 1]
    assert len(added) == round(120 / 12)
    assert {kind: sum(row["source"] == kind for row in added) for kind in ("undo", "clear")} == {"undo": 5, "clear": 5}
    for row in added:
        action = actions.parse(row["action"])
        assert action.deselect
        assert not action.select
        if row["source"] == "clear":
            assert action.deselect == row["state"]
            assert row["utterance"] in rehearsal.CLEAR
        else:
            assert row["utterance"] in rehearsal.UNDO
            before = [r for r in rows if r["interaction_id"] == row["interaction_id"]][-2]
            assert action.deselect == actions.parse(before["action"]).select
    assert len({row["utterance"] for row in added}) > 4
    assert not sampling.training_set(EMPTY_TURNS, EMPTY_FEEDBACK, d0, None, seed=2).equals(table)


# --- propensity -------------------------------------------------------------------------------------------------


def test_rl_without_p_names_turns_and_remedies() -> None:
    turns = _turns(_log("g1", "select A", "select B", "select C", probability=None))
    table = sampling.training_set(turns, _feedback({("g1", 0): 1, ("g1", 1): -1}), EMPTY_TURNS, Variant.B_RL)
    with pytest.raises(ValueError, match=r"g1 turn 1\. .*--propensity backfill.*--propensity surrogate"):
        sampling.require_probability(sampling.examples(table), Objective.RL)
    sampling.require_probability(table, Objective.KTO)
    filled = sampling.fill_probability(table, {("g1", 1): 0.25})
    sampling.require_probability(sampling.examples(filled), Objective.RL)
    assert filled["probability"].to_pylist() == [None, 0.25, None]
    assert filled.schema.equals(table.schema)
    kept = sampling.fill_probability(filled, {("g1", 0): 1.0, ("g1", 1): 0.9})
    assert kept["probability"].to_pylist() == [1.0, 0.25, None]
    with pytest.raises(ValueError, match="outside"):
        sampling.fill_probability(table, {("g1", 1): 0.0})


# --- the batches of an epoch ------------------------------------------------------------------------------------

LABEL_LISTS = st.lists(st.lists(st.sampled_from([1, -1, 0, None]), min_size=1, max_size=12), max_size=40)


def _examples(labels: list[list[int | None]]) -> list[Example]:
    return [
        Example(
            Interaction(f"g{n}", tuple(IMAGES), tuple(Turn("", f"say {t}", "select A", 0.5) for t in range(len(game)))),
            tuple(game),
        )
        for n, game in enumerate(labels)
    ]


@settings(max_examples=150, deadline=None)
@given(LABEL_LISTS, st.sampled_from([fft(), rl(), kto()]), st.integers(1, 64), st.integers(0, 3), st.integers(0, 3))
def test_plan_of_an_epoch(labels: list, base: object, batch_turns: int, seed: int, epoch: int) -> None:
    config = replace(base, batch_turns=batch_turns)  # type: ignore[type-var]
    data = _examples(labels)
    plan = sampling.plan_epoch(data, config, seed, epoch)
    assert plan == sampling.plan_epoch(data, config, seed, epoch)

    kept = [(game.interaction.interaction_id, turn) for batch in plan for game in batch.games for turn in game.kept]
    assert len(kept) == len(set(kept))
    positives = {(f"g{n}", t) for n, game in enumerate(labels) for t, label in enumerate(game) if label == 1}
    assert positives <= set(kept)
    largest = max((game.count(1) for game in labels), default=0)
    for batch in plan:
        assert batch.count(1) >= 1
        assert batch.count(-1) * 5 <= batch.count(1) * 4
        assert batch.count(-1) == 0 or config.objective is not Objective.FFT
        # A batch is its share of the epoch, give or take a game.
        assert batch.turns <= 1.8 * (1.5 * batch_turns + largest)
        for game in batch.games:
            original = labels[int(game.interaction.interaction_id[1:])]
            assert game.labels[-1] is not None  # nothing after the last kept turn
            assert len(game.labels) == len(game.interaction.turns)
            assert all(label in (None, original[turn]) and label != 0 for turn, label in enumerate(game.labels))
            assert sorted(game.permutation) == list(range(10))


def test_downsampling_fills_the_ratio_and_varies_by_epoch() -> None:
    data = _examples([[1, -1, -1, -1, None]] * 200)
    plans = [sampling.plan_epoch(data, rl(), 0, epoch) for epoch in range(2)]
    for plan in plans:
        assert sum(batch.count(1) for batch in plan) == 200
        assert [batch.count(-1) for batch in plan] == [batch.count(1) * 4 // 5 for batch in plan]
        assert all(abs(batch.turns - 64) <= 10 for batch in plan)
    assert plans[0] != plans[1]
    first, second = (
        {(g.interaction.interaction_id, t) for b in plan for g in b.games for t in g.kept if g.labels[t] == -1}
        for plan in plans
    )
    assert len(first & second) < len(first) / 2
    permutations = [{g.interaction.interaction_id: g.permutation for b in plan for g in b.games} for plan in plans]
    assert sum(permutations[0][name] == permutations[1].get(name) for name in permutations[0]) < 5


def test_no_positive_no_batch() -> None:
    assert sampling.plan_epoch(_examples([[-1, -1], [None]]), rl(), 0, 0) == []
    assert sampling.plan_epoch([], fft(), 0, 0) == []
