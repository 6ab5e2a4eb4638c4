"""The training set of a variant: eligible turns, with D0 rehearsed, and negatives at 5:4 (appendix B.3)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc
from prefect import task
from prefect.cache_policies import NO_CACHE

from respect_core import manifests, sampling, tables
from respect_core.interaction import FEEDBACK_SCHEMA, TURNS_SCHEMA, turn_rows
from respect_core.lineage import data_hash
from respect_core.manifests import Partition
from respect_core.rounds import learning_partitions
from respect_core.store import Store
from respect_core.variants import SEED, Objective, Profile, TrainingConfig, Variant
from tasks import game_sets
from tasks.propensity import read_probabilities
from tasks.references import PropensityRef, TrainingSetRef
from tasks.retries import PATIENT
from tasks.workspace import Workspace


@task(name="subsample", task_run_name="subsample {variant}", **PATIENT, cache_policy=NO_CACHE)
def subsample_variant(
    workspace: Workspace,
    profile: Profile,
    variant: Variant,
    round: int,
    validation: str,
    propensities: Sequence[PropensityRef],
) -> TrainingSetRef:
    """Write the variant's training set for the round: D up to it, without the games of sets held out.

    Raises:
        ValueError: RL lacks the probability of a turn; the message names turns and remedies.
    """
    store, config = workspace.open(), profile.training[variant.objective]
    chosen = learning_partitions(manifests.partitions(store, "turns"), variant, round)
    held_out = game_sets.held_out(store, validation)
    turns = _without(_rows(store, "turns", chosen, TURNS_SCHEMA), held_out)
    feedback = _without(_rows(store, "feedback", chosen, FEEDBACK_SCHEMA), held_out)
    d0, right = _d0(store)
    table = sampling.training_set(
        turns, feedback, d0, variant, deselection_ratio=profile.deselection_ratio, d0_right=right
    )
    lacking = table["probability"].null_count
    if config.objective is Objective.RL:
        table = sampling.fill_probability(table, read_probabilities(store, propensities))
        sampling.require_probability(table, config.objective)
    sources = {
        "logged": len(table) - lacking,
        str(profile.propensity): lacking - table["probability"].null_count,
        "none": table["probability"].null_count,
    }
    inputs = [manifests.table_input(store, name, *part) for part in chosen for name in ("turns", "feedback")]
    return _write(store, table, Partition(round, variant), config, sources, inputs)


@task(name="subsample", task_run_name="training set of the seed policy", **PATIENT, cache_policy=NO_CACHE)
def seed_training_set(workspace: Workspace, profile: Profile) -> TrainingSetRef:
    """Write the seed policy's training set: D0 and its deselection augmentation (appendix B.2)."""
    store = workspace.open()
    d0, right = _d0(store)
    table = sampling.training_set(
        TURNS_SCHEMA.empty_table(),
        FEEDBACK_SCHEMA.empty_table(),
        d0,
        None,
        deselection_ratio=profile.deselection_ratio,
        d0_right=right,
    )
    return _write(store, table, Partition(0, SEED), profile.seed_training, {}, [])


def _rows(store: Store, name: str, chosen: Sequence[Partition], schema: pa.Schema) -> pa.Table:
    parts = [tables.read_table(store, name, [part.round], [part.variant]) for part in chosen]
    return pa.concat_tables(parts) if parts else schema.empty_table()


def _without(table: pa.Table, interaction_ids: Sequence[str]) -> pa.Table:
    known = pc.is_in(table["interaction_id"], pa.array(interaction_ids, pa.string()))
    return table.filter(pc.invert(known))


def _d0(store: Store) -> tuple[pa.Table, frozenset[tuple[str, int]]]:
    """D0 as turns, and those among them to learn from."""
    logs, right = game_sets.curated(store, game_sets.D0)
    rows = [row for log in logs for row in turn_rows(log)]
    return pa.Table.from_pylist(rows, schema=TURNS_SCHEMA), frozenset(right)


def _write(
    store: Store,
    table: pa.Table,
    partition: Partition,
    config: TrainingConfig,
    probabilities: dict[str, int],
    inputs: Sequence[manifests.Input],
) -> TrainingSetRef:
    batches = sampling.plan_epoch(sampling.examples(table), config, seed=0, epoch=0)
    labels = Counter(zip(table["source"].to_pylist(), table["label"].to_pylist(), strict=True))
    rehearsed = sum(count for (source, label), count in labels.items() if source != "round" and label is not None)
    counts = {
        "train_turns": sum(batch.turns for batch in batches),
        "positives": labels["round", 1],
        "negatives": labels["round", -1],
        "negatives_used": sum(batch.count(-1) for batch in batches),
        "rehearsal_turns": rehearsed,
    }
    # A row's round and variant are those of the training set; the turn's own are found by its interaction_id.
    for name, value in partition._asdict().items():
        field = table.schema.field(name)
        table = table.set_column(
            table.schema.get_field_index(name), field, pa.repeat(value, len(table)).cast(field.type)
        )
    manifest = tables.write_partition(
        store,
        "training_sets",
        *partition,
        table,
        inputs=inputs,
        counts=counts,
        metadata={"probabilities": probabilities},
    )
    return TrainingSetRef(
        variant=partition.variant,
        round=partition.round,
        data_hash=data_hash(manifest),
        probabilities=probabilities,
        **counts,
    )
