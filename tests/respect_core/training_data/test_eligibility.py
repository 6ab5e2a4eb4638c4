"""Eligibility, rehearsal and training sets."""

from __future__ import annotations

import inspect
from dataclasses import replace
from random import Random
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from samples import IMAGES, played

from respect_core.log.records import InteractionLog, outcome_row, turn_rows
from respect_core.scenarios.multiref import actions, augmentation
from respect_core.scenarios.multiref.scenario import SCENARIO
from respect_core.schemas import FEEDBACK_SCHEMA, OUTCOMES_SCHEMA, TRAINING_SET_SCHEMA, TURNS_SCHEMA
from respect_core.training_data import eligibility, sampling
from respect_core.variants import FeedbackSource, Objective, Variant, fft, kto, rl

EMPTY_TURNS, EMPTY_FEEDBACK = TURNS_SCHEMA.empty_table(), FEEDBACK_SCHEMA.empty_table()


def _turns(*logs: InteractionLog) -> pa.Table:
    return pa.Table.from_pylist([row for log in logs for row in turn_rows(log)], schema=TURNS_SCHEMA)


def _feedback(labels: dict[tuple[str, int], int], decoder: str = "binary") -> pa.Table:
    fixed = {"round": 0, "variant": "seed", "decoder": decoder, "score": 1.0, "low_margin": False}
    fixed |= {"decoder_model": "m", "decoder_revision": "r", "prompt_hash": "p", "thresholds": "{}"}
    rows = [{"interaction_id": game, "turn": turn, "label": label} | fixed for (game, turn), label in labels.items()]
    return pa.Table.from_pylist(rows, schema=FEEDBACK_SCHEMA)


def _training_set(turns: pa.Table, feedback: pa.Table, *others: Any, **options: Any) -> pa.Table:
    batches = eligibility.training_batches(turns.to_batches(), feedback.to_batches(), *others, **options)
    return pa.Table.from_batches(batches, TRAINING_SET_SCHEMA)


GAME = played("g1", "select A", "select B C", "nothing", "deselect A select D", "select E")
LABELS = {("g1", 0): 1, ("g1", 1): -1, ("g1", 2): 1, ("g1", 3): 0, ("g1", 4): 1}


def _with(table: pa.Table, name: str, values: list[Any]) -> pa.Table:
    field = table.schema.field(name)
    return table.set_column(table.schema.get_field_index(name), field, pa.array(values, field.type))


# --- eligibility ------------------------------------------------------------------------------------------------


def _labels(turns: pa.Table, feedback: pa.Table, variant: Variant) -> dict[tuple[str, int], int]:
    rows = _training_set(turns, feedback, EMPTY_TURNS, variant, SCENARIO).to_pylist()
    return {(row["interaction_id"], row["turn"]): row["label"] for row in rows if row["label"] is not None}


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
    assert _labels(_turns(GAME), _feedback(LABELS), variant) == expected


def test_marked_turns_teach_nobody() -> None:
    """Whatever they were decoded as. That one was cut does not keep it out."""
    table = _feedback(LABELS)
    marked = ["role, special token" if turn == 1 else None for turn in table["turn"].to_pylist()]
    table = _with(_with(table, "marked", marked), "cut", [True] * len(table))
    assert _labels(_turns(GAME), table, Variant.B_RL) == {("g1", 0): 1}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (FeedbackSource.DECODED, {("g1", 0): 1, ("g1", 1): -1}),
        (FeedbackSource.EXPLICIT, {("g1", 0): -1, ("g1", 4): 1}),
        (FeedbackSource.BOTH, {("g1", 0): -1, ("g1", 1): -1, ("g1", 4): 1}),
    ],
)
def test_thumbs_are_learned_from_as_asked(source: FeedbackSource, expected: dict[tuple[str, int], int]) -> None:
    """A thumb needs no follow-up, and makes no learnable turn of `nothing` or of a marked one."""
    turns, feedback = _turns(GAME), _feedback(LABELS)
    turns = _with(turns, "explicit", [-1, None, 1, 1, 1])
    feedback = _with(feedback, "marked", ["role" if turn == 3 else None for turn in feedback["turn"].to_pylist()])
    table = _training_set(turns, feedback, EMPTY_TURNS, Variant.B_RL, SCENARIO, source=source).to_pylist()
    assert {(row["interaction_id"], row["turn"]): row["label"] for row in table if row["label"]} == expected


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (FeedbackSource.DECODED, {("g1", 0): -1, ("g1", 3): 1}),
        (FeedbackSource.EXPLICIT, {("g1", 0): 1, ("g1", 1): -1, ("g1", 4): 1}),
        (FeedbackSource.BOTH, {("g1", 0): -1, ("g1", 3): 1, ("g1", 4): 1}),
    ],
)
def test_people_outrank_decoders_and_thumbs(source: FeedbackSource, expected: dict[tuple[str, int], int]) -> None:
    """A neutral review takes a turn out, even against a thumb; a turn without a follow-up has none."""
    people = {("g1", 0): -1, ("g1", 1): 0, ("g1", 2): 1, ("g1", 3): 1, ("g1", 4): -1, ("another", 0): 1}
    turns, feedback = _with(_turns(GAME), "explicit", [1, -1, None, None, 1]), _feedback(LABELS)
    for variant, table in ((Variant.B_RL, feedback), (Variant.T_RL, _with(feedback, "decoder", ["ternary"] * 5))):
        options = {"source": source, "people": people}
        rows = _training_set(turns, table, EMPTY_TURNS, variant, SCENARIO, **options).to_pylist()
        assert {(row["interaction_id"], row["turn"]): row["label"] for row in rows if row["label"]} == expected
    if source is FeedbackSource.DECODED:
        marked = _with(feedback, "marked", ["role"] * 5)
        assert not len(_training_set(turns, marked, EMPTY_TURNS, Variant.B_RL, SCENARIO, people=people))


def test_each_variant_reads_its_own_decoder() -> None:
    feedback = pa.concat_tables([_feedback({("g1", 0): -1}), _feedback({("g1", 0): 1}, "ternary")])
    assert _labels(_turns(GAME), feedback, Variant.T_FFT) == {("g1", 0): 1}
    assert _labels(_turns(GAME), feedback, Variant.B_RL) == {("g1", 0): -1}
    twice = pa.concat_tables([_feedback({("g1", 0): -1}), _feedback({("g1", 0): 1})])
    with pytest.raises(ValueError, match="two binary labels for turn 0 of g1"):
        _labels(_turns(GAME), twice, Variant.B_RL)


def test_the_control_learns_from_as_many_turns_and_others() -> None:
    """Labels change places among all decoded turns, and no other turn gets one."""
    games = [played(f"g{number:02}", "select A", "nothing", "deselect A select D", "select E") for number in range(40)]
    labels = {(f"g{number:02}", turn): 1 if number < 20 else -1 for number in range(40) for turn in range(3)}
    turns, feedback = _turns(*games), _feedback(labels)
    own = set(_labels(turns, feedback, Variant.B_FFT))
    shuffled = set(_labels(turns, feedback, Variant.SHUFFLED))
    assert len(shuffled) == len(own) == 40 and shuffled < {key for key in labels if key[1] != 1}
    assert 10 < len(shuffled & own) < 30, "half of them by chance"
    again, other = (
        _training_set(turns, feedback, EMPTY_TURNS, Variant.SHUFFLED, SCENARIO, shuffle_seed=seed) for seed in (0, 1)
    )
    assert set(_labels(turns, feedback, Variant.SHUFFLED)) == shuffled and not again.equals(other)


# --- training sets ----------------------------------------------------------------------------------------------


def test_training_set_keeps_whole_games_and_is_deterministic() -> None:
    other = played("g0", "select A", "select B")
    d0 = _turns(played("h1", "select A", "select B", "select C D", probability=None))
    tables = [
        _training_set(turns, _feedback(LABELS), d0, Variant.B_RL, SCENARIO, deselection_ratio=2 / 3, seed=3)
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
        _training_set(_turns(GAME), _feedback(LABELS), _turns(GAME), Variant.B_RL, SCENARIO)


def test_seed_policy_learns_from_d0_alone() -> None:
    table = _training_set(EMPTY_TURNS, EMPTY_FEEDBACK, _turns(GAME), None, SCENARIO, deselection_ratio=0)
    assert table["label"].to_pylist() == [1, 1, None, 1, 1]  # the last turn counts: people, not feedback, vouch for it
    right = _training_set(
        EMPTY_TURNS, EMPTY_FEEDBACK, _turns(GAME), None, SCENARIO, deselection_ratio=0, d0_right=frozenset({("g1", 1)})
    )
    assert right["label"].to_pylist() == [None, 1, None, None, None]


def test_neither_targets_nor_outcomes_can_come_in() -> None:
    """The only inputs are turns, feedback, reviews and D0, and a table with a column more is refused."""
    parameters = set(inspect.signature(eligibility.training_batches).parameters)
    settings = {"variant", "scenario", "source", "deselection_ratio", "d0_right", "seed"}
    settings |= {"shuffle_seed", "limits", "excluded", "left_out", "scratch", "run"}
    assert parameters == {"turns", "feedback", "people", "d0"} | settings
    assert not {"targets", "success"} & set(TRAINING_SET_SCHEMA.names)
    with_targets = _turns(GAME).append_column("targets", pa.array([IMAGES[:3]] * 5))
    for turns, d0 in ((with_targets, EMPTY_TURNS), (EMPTY_TURNS, with_targets)):
        with pytest.raises(ValueError, match="targets"):
            _training_set(turns, EMPTY_FEEDBACK, d0, Variant.B_FFT, SCENARIO)
    with pytest.raises(ValueError, match="no turns table"):
        outcomes = pa.Table.from_pylist([outcome_row(GAME)], OUTCOMES_SCHEMA)
        _training_set(outcomes, EMPTY_FEEDBACK, EMPTY_TURNS, Variant.B_FFT, SCENARIO)


def _replay(table: pa.Table) -> None:
    """Fails unless every game of a training set is legal from first to last turn."""
    for example in sampling.examples(table):
        state = ""
        for turn in example.interaction.turns:
            assert turn.state == state
            assert turn.action is not None
            state = actions.apply(actions.parse(turn.action), state)


def test_deselection_augmentation() -> None:
    d0 = _turns(*(played(f"h{n:02}", "select A", "select B C", "deselect B select D", "select E") for n in range(30)))
    table = _training_set(EMPTY_TURNS, EMPTY_FEEDBACK, d0, None, SCENARIO, seed=1)
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
            assert row["utterance"] in augmentation.CLEAR
        else:
            assert row["utterance"] in augmentation.UNDO
            before = [r for r in rows if r["interaction_id"] == row["interaction_id"]][-2]
            assert action.deselect == actions.parse(before["action"]).select
    assert len({row["utterance"] for row in added}) > 4
    assert not _training_set(EMPTY_TURNS, EMPTY_FEEDBACK, d0, None, SCENARIO, seed=2).equals(table)


# --- propensity -------------------------------------------------------------------------------------------------


def _tallied(*batches: pa.RecordBatch) -> eligibility.Tally:
    tally = eligibility.Tally()
    for batch in batches:
        tally.add(batch)
    return tally


def test_rl_without_p_names_turns_and_remedies() -> None:
    turns = _turns(played("g1", "select A", "select B", "select C", probability=None))
    table = _training_set(turns, _feedback({("g1", 0): 1, ("g1", 1): -1}), EMPTY_TURNS, Variant.B_RL, SCENARIO)
    [batch] = table.to_batches()
    with pytest.raises(ValueError, match=r"g1 turn 1\. .*--propensity backfill.*--propensity surrogate"):
        sampling.require_probability(sampling.examples(table), Objective.RL)
    with pytest.raises(ValueError, match=r"g1 turn 1\. .*--propensity backfill.*--propensity surrogate"):
        _tallied(batch).require_probability()
    sampling.require_probability(sampling.examples(table), Objective.KTO)
    filled = eligibility.fill_propensity(batch, {("g1", 1): 0.25})
    sampling.require_probability(sampling.examples(pa.Table.from_batches([filled])), Objective.RL)
    _tallied(filled).require_probability()
    assert filled["probability"].to_pylist() == [None, 0.25, None]
    assert filled.schema.equals(table.schema)
    kept = eligibility.fill_propensity(filled, {("g1", 0): 1.0, ("g1", 1): 0.9})
    assert kept["probability"].to_pylist() == [1.0, 0.25, None]
    with pytest.raises(ValueError, match=r"probability 0\.0 of turn 1 of g1 is outside"):
        eligibility.fill_propensity(batch, {("g1", 1): 0.0})


# --- what is odd -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("positives", "negatives", "said"),
    [
        (1, 99, "99 turns were decoded as negative and 1 as positive: an epoch of KTO uses 0 of the negatives"),
        (10, 990, "an epoch of KTO uses 8 of the negatives, since a batch takes one to 1.25 positives"),
        (10, 0, "no turn was decoded as negative: KTO learns from 10 positives alone"),
        (10, 20, ""),
    ],
)
def test_negatives_that_are_left_out_are_told(positives: int, negatives: int, said: str) -> None:
    names = [f"g{number}" for number in range(positives + negatives)]
    turns = _turns(*(played(name, "select A", "select B") for name in names))
    labels = {(name, 0): 1 if number < positives else -1 for number, name in enumerate(names)}
    config = replace(kto(), batch_turns=10**6)  # one batch, so that nothing is lost between batches
    table = _training_set(turns, _feedback(labels), EMPTY_TURNS, Variant.B_KTO, SCENARIO)
    counts = _tallied(*table.to_batches()).counts(config)
    warnings = eligibility.warnings(counts, config)
    assert len(warnings) == bool(said) and said in "".join(warnings)
    assert not eligibility.warnings(counts, fft())  # which uses none


# --- any number of rows -----------------------------------------------------------------------------------------


def _in_memory(turns: pa.Table, feedback: pa.Table, variant: Variant) -> list[dict[str, Any]]:
    """What section 5 says, of rows in memory."""
    decoded = {
        (r["interaction_id"], r["turn"]): r["label"] for r in feedback.to_pylist() if r["decoder"] == variant.decoder
    }
    wanted = {1} if variant.objective is Objective.FFT else {1, -1}
    rows = sorted(turns.to_pylist(), key=lambda row: (row["interaction_id"], row["turn"]))
    for row in rows:
        label = decoded.get((row["interaction_id"], row["turn"]))
        takes = label in wanted and row["follow_up"] is not None and row["action"] != actions.NOTHING
        row |= {"label": label if takes else None, "source": "round"}
    games = {row["interaction_id"] for row in rows if row["label"] is not None}
    return [{name: row[name] for name in TRAINING_SET_SCHEMA.names} for row in rows if row["interaction_id"] in games]


LABELLED = st.lists(st.sampled_from([1, 0, -1, None]), min_size=1, max_size=4)


@pytest.mark.heavy
@given(
    st.dictionaries(st.text("aZ0\u00e9\U0001f600", min_size=1, max_size=3), LABELLED, max_size=12),
    st.sampled_from([variant for variant in Variant if not variant.shuffled]),
    st.integers(1, 8),
    st.randoms(use_true_random=False),
)
def test_batches_and_runs_of_any_size_give_the_same_rows(
    games: dict[str, list[int | None]], variant: Variant, size: int, random: Random
) -> None:
    logs = [played(name, *_played(len(labels), random)) for name, labels in games.items()]
    feedback = [
        _feedback({(name, turn): label}, decoder)
        for name, labels in games.items()
        for turn, label in enumerate(labels)
        for decoder in ("binary", "ternary")
        if label is not None
    ]
    random.shuffle(feedback)
    turns, said = _turns(*logs), pa.concat_tables([EMPTY_FEEDBACK, *feedback])
    batches = eligibility.training_batches(
        turns.to_batches(size), said.combine_chunks().to_batches(size), EMPTY_TURNS, variant, SCENARIO, run=size
    )
    tally, rows = eligibility.Tally(), []
    for batch in batches:
        tally.add(batch)
        rows += batch.to_pylist()
    assert rows == _in_memory(turns, said, variant)
    plan = sampling.plan_epoch(sampling.examples(pa.Table.from_pylist(rows, TRAINING_SET_SCHEMA)), rl(), 0, 0)
    counts = tally.counts(rl())
    assert counts["train_turns"] == sum(batch.turns for batch in plan)
    assert counts["negatives_used"] == sum(batch.count(-1) for batch in plan)
    assert (counts["positives"], counts["negatives"]) == tuple(
        sum(row["label"] == label for row in rows) for label in (1, -1)
    )
    assert tally.rows == len(rows)


def _played(turns: int, random: Random) -> list[str]:
    """Actions of a game, some of them `nothing`."""
    state, played = "", []
    for _ in range(turns):
        after = random.choice(["", "A", "AB"])
        played.append(str(actions.between(state, after)))
        state = after
    return played


def test_turns_that_are_not_all_there_are_refused() -> None:
    lacking = _turns(GAME).slice(1)
    with pytest.raises(ValueError, match=r"interaction g1: turns are numbered \[1, 2, 3, 4\]"):
        _training_set(lacking, _feedback(LABELS), EMPTY_TURNS, Variant.B_RL, SCENARIO)
