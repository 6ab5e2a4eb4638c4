"""Compute probabilities p for logs that have none (equation 2), under the policy that acted or a surrogate."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

import pyarrow.compute as pc
from prefect import get_run_logger, task

from respect_core.interaction import TurnKey
from respect_core.log import set_aside
from respect_core.profiles import Profile
from respect_core.store import manifests, tables
from respect_core.store.base import Store
from respect_core.store.manifests import Partition
from respect_core.training_data.sources import learning_partitions
from respect_core.variants import Objective, Propensity, Variant
from tasks.compute import culprits
from tasks.compute.places import Place, runner
from tasks.compute.specs import PropensitySpec
from tasks.registry import registry
from tasks.support import progress
from tasks.support.references import PropensityRef, RegisteredRef
from tasks.support.retries import PATIENT
from tasks.support.workspace import Workspace


@task(name="propensities", task_run_name="propensities up to round {round}", **PATIENT)
def fill_propensities(
    workspace: Workspace,
    profile: Profile,
    round: int,
    variants: Sequence[Variant],
    seed: RegisteredRef,
    on: Place = Place.HERE,
) -> list[PropensityRef]:
    """Compute p for the turns that RL will learn from and that lack it, as the profile says.

    logged: compute none, so that training fails and names the turns. backfill: under the adapter that acted.
    surrogate: under the seed policy, an approximation for logs whose policy is not available.

    Raises:
        ValueError: for backfill, the policy that acted is not in the registry.
    """
    if profile.propensity is Propensity.LOGGED:
        return []
    store, available = workspace.open(), manifests.partitions(workspace.open(), "turns")
    wanted = {
        partition
        for variant in variants
        if variant.objective is Objective.RL
        for partition in learning_partitions(available, variant, round)
    }
    lacking = [partition for partition in sorted(wanted) if _lacks_probability(store, partition)]
    if lacking and profile.propensity is Propensity.SURROGATE:
        named = "; ".join(f"round {each.round}, {each.variant}" for each in lacking)
        get_run_logger().warning("%s: p is the seed policy's, not that of the policy that acted", named)
    return [_fill(workspace, profile, partition, seed, on) for partition in lacking]


def read_probabilities(store: Store, references: Sequence[PropensityRef]) -> dict[TurnKey, float]:
    """Read p by turn from all references."""
    return {
        (interaction_id, turn): p
        for reference in references
        for interaction_id, values in json.loads(store.read(reference.key)).items()
        for turn, p in enumerate(values)
        if p is not None
    }


def _lacks_probability(store: Store, partition: Partition) -> bool:
    columns = tables.read_table(store, "turns", [partition.round], [partition.variant], ["probability", "logp"])
    return bool(pc.coalesce(columns["probability"], columns["logp"]).null_count)


def _fill(
    workspace: Workspace, profile: Profile, partition: Partition, seed: RegisteredRef, on: Place
) -> PropensityRef:
    store = workspace.open()
    backfill = profile.propensity is Propensity.BACKFILL
    name, adapter = _acted(store, partition) if backfill else (seed.model, seed.adapter_hash)
    version = registry.by_adapter_hash(workspace, name, adapter) if adapter else None
    if version is None:
        raise ValueError(
            f"round {partition.round}, variant {partition.variant}: the policy that acted ({name}, adapter "
            f"{adapter or 'unknown'}) is not in the registry, so its probabilities cannot be computed. Register its "
            "adapter, log probabilities at deployment, use --propensity surrogate, or leave out b-rl and t-rl"
        )
    directory = workspace.scratch / "propensity" / profile.propensity / partition.folder("turns").strip("/")
    spec = PropensitySpec.of(
        workspace,
        profile,
        without=sorted(set_aside.games(store, [partition])),
        adapter=registry.download(workspace, version),
        adapter_hash=version.tags["adapter_hash"],
        round=partition.round,
        variant=partition.variant,
        data_hash=manifests.table_input(store, "turns", *partition).sha256,
    )
    with progress.bar(f"probabilities of round {partition.round}, {partition.variant}") as bar:
        result = culprits.run(runner(on), spec, directory, bar.update).read_bytes()
    key = f"{partition.folder('propensities')}{hashlib.sha256(result).hexdigest()[:32]}.json"
    store.put(key, result)
    return PropensityRef(round=partition.round, variant=partition.variant, source=profile.propensity, key=key)


def _acted(store: Store, partition: Partition) -> tuple[str, str | None]:
    """Return the one policy that acted in a partition.

    Raises:
        ValueError: several did.
    """
    columns = ["policy_name", "adapter_hash"]
    rows = tables.read_table(store, "turns", [partition.round], [partition.variant], columns).to_pylist()
    acted = {(row["policy_name"], row["adapter_hash"]) for row in rows}
    if len(acted) != 1:
        raise ValueError(f"{partition}: {len(acted)} policies acted in one partition: {sorted(acted, key=str)}")
    return acted.pop()
