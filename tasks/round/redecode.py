"""Decode old turns again with another decoder or prompt, apart from the labels that the rounds learned from.

The new feedback table is at `redecoded/<name>/feedback/` in the store, in the layout of the old one, which stays.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from prefect import task
from prefect.artifacts import create_table_artifact

from respect_core.feedback import decoder as feedback
from respect_core.feedback import prompts
from respect_core.feedback.decoder import DecoderConfig, FeedbackDecoder
from respect_core.feedback.shards import TURNS, decode_partition
from respect_core.interaction import TurnKey
from respect_core.log import forgetting, set_aside
from respect_core.measuring.labels import target_labels
from respect_core.store import manifests, tables
from respect_core.store.base import Store
from respect_core.store.open import open_store
from respect_core.variants import DecoderKind
from tasks.round.decode import audit, decoder_identity
from tasks.support import progress
from tasks.support.retries import PATIENT
from tasks.support.workspace import Workspace

DecoderName = Literal["smollm2", "idefics2_8b"]
PromptName = Literal["the decoder's own", "zero-shot", "few-shot", "few-shot with context"]


def configure(decoder: DecoderName, prompt: PromptName, positive: float | None) -> DecoderConfig:
    """Return a named decoder with another prompt or another threshold for positives, in nats."""
    config = feedback.named(decoder)
    if prompt == "zero-shot":
        config = replace(config, binary=prompts.zero_shot("binary"), ternary=prompts.zero_shot("ternary"))
    elif prompt != "the decoder's own":
        binary, ternary = (prompts.few_shot(kind, context=prompt.endswith("context")) for kind in prompts.LABELS)
        config = replace(config, binary=binary, ternary=ternary)
    if positive is not None:
        config = replace(
            config,
            binary_thresholds=replace(config.binary_thresholds, positive=positive),
            ternary_thresholds=replace(config.ternary_thresholds, positive=positive),
        )
    return config


def beside(workspace: Workspace, name: str) -> Store:
    """Return the store whose `feedback` table holds the labels of that name."""
    return open_store(f"{workspace.store_uri}/redecoded/{name}")


@task(name="redecode", task_run_name="redecode round {round}", **PATIENT)
def redecode_round(
    workspace: Workspace, config: DecoderConfig, round: int, name: str, turns_per_shard: int = TURNS
) -> list[dict[str, Any]]:
    """Decode a round's turns into the table of that name, and compare them with the round's own labels.

    As in a round, an interrupted try resumes after its last finished shard.

    Raises:
        ValueError: the round has not been decoded.
    """
    store, target = workspace.open(), beside(workspace, name)
    forgetting.finish(store)
    partitions = manifests.partitions(store, "feedback", [round])
    if not partitions:
        raise ValueError(f"round {round} has no feedback in {workspace.store_uri}; run the round first")
    decoder, identity, aside = FeedbackDecoder(config), decoder_identity(config), set_aside.games(store)
    for partition in partitions:
        with progress.bar(f"redecode round {round}, {partition.variant}") as bar:
            decode_partition(
                store,
                partition,
                decoder,
                identity,
                turns_per_shard,
                bar.update,
                target,
                chosen=lambda game: game not in aside,
            )
    before, after = (tables.read_table(each, "feedback", [round]).to_pylist() for each in (store, target))
    compared = compare(before, after, target_labels(store, [round]))
    create_table_artifact(key=f"redecoded-{name}-round-{round}", table=compared, description=f"{name}: {config.name}")
    return compared


def compare(
    before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]], actual: Mapping[TurnKey, int]
) -> list[dict[str, Any]]:
    """For each decoder kind, return what changed and, if there are targets, the rates of the old and the new labels."""
    rows, figures = [], {"old": audit(before, actual, None), "new": audit(after, actual, None)}
    for kind in DecoderKind:
        old, new = ([row for row in some if row["decoder"] == kind] for some in (before, after))
        rates = {
            f"{name} {when}": getattr(each[kind], name)
            for name in ("precision", "recall", "auc")
            for when, each in figures.items()
        }
        rows.append({"decoder": str(kind), **rates, **changes(old, new)})
    return rows


def changes(before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Count turns by old and new label, e.g. {"-1 to 1": 12}; both sequences have the same decoder kind."""
    old = {(row["interaction_id"], row["turn"]): row["label"] for row in before}
    pairs = Counter((old.get((row["interaction_id"], row["turn"])), row["label"]) for row in after)
    return {f"{one} to {other}": count for (one, other), count in sorted(pairs.items(), key=str)}
