"""The batches of an epoch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from respect_core.interaction import Interaction, Turn
from respect_core.training_data import sampling
from respect_core.training_data.sampling import Example
from respect_core.variants import Objective, fft, kto, rl

IMAGES = [f"tangram-{n}" for n in range(10)]
LABEL_LISTS = st.lists(st.lists(st.sampled_from([1, -1, 0, None]), min_size=1, max_size=12), max_size=40)


def _examples(labels: list[list[int | None]], rehearsed: int = 0) -> list[Example]:
    """One game each; the last `rehearsed` are from D0."""
    return [
        Example(
            Interaction(f"g{n}", tuple(IMAGES), tuple(Turn("", f"say {t}", "select A", 0.5) for t in range(len(game)))),
            tuple(game),
            n >= len(labels) - rehearsed,
        )
        for n, game in enumerate(labels)
    ]


@settings(max_examples=150)
@given(
    LABEL_LISTS,
    st.sampled_from([fft(), rl(), kto()]),
    st.integers(1, 64),
    st.integers(0, 3),
    st.integers(0, 3),
    st.integers(0, 5),
)
def test_plan_of_an_epoch(labels: list, base: object, batch_turns: int, seed: int, epoch: int, rehearsed: int) -> None:
    config = replace(base, batch_turns=batch_turns)  # type: ignore[type-var]
    labels = [*labels[:-rehearsed], *([1, None] for _ in labels[-rehearsed:])] if rehearsed else labels
    data = _examples(labels, rehearsed)
    plan = sampling.plan_epoch(data, config, seed, epoch)
    assert plan == sampling.plan_epoch(data, config, seed, epoch)
    counts = [np.array([game.count(label) for game in labels], int) for label in (1, -1)]
    kept_turns = sum(batch.turns for batch in plan), sum(batch.count(-1) for batch in plan)
    from_d0 = np.array([example.rehearsed for example in data], bool)
    assert sampling.count_epoch(*counts, from_d0, config, seed, epoch) == kept_turns

    kept = [(game.interaction.interaction_id, turn) for batch in plan for game in batch.games for turn in game.kept]
    assert len(kept) == len(set(kept))
    positives = {(f"g{n}", t) for n, game in enumerate(labels) for t, label in enumerate(game) if label == 1}
    assert positives <= set(kept)
    largest = max((game.count(1) for game in labels), default=0)
    for batch in plan:
        assert batch.count(1) >= 1
        decoded = sum(game.labels.count(1) for game in batch.games if not game.rehearsed)
        assert batch.count(-1) * 5 <= decoded * 4  # D0 makes no room for negatives
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
