"""What is deployed: the ledger in the store is the truth, the alias `deployed` in MLflow its projection.

An entry in the ledger is what promotes or rolls back; the alias follows. If a process is killed between the two, the
next one repairs the alias: every operation settles it first.
"""

from __future__ import annotations

from contextlib import suppress

from mlflow.entities.model_registry import ModelVersion

from respect_core.release import ledger
from respect_core.variants import SEED
from tasks.registry import registry
from tasks.support.workspace import Workspace


def candidate(workspace: Workspace, variant: str, number: int | None = None) -> ModelVersion:
    """Return the variant's version of that number, by default the candidate.

    Raises:
        ValueError: there is no such version.
    """
    chosen = number or registry.aliases(workspace, registry.model_name(variant)).get(registry.CANDIDATE)
    if chosen is None:
        raise ValueError(f"{variant} has no candidate in {workspace.tracking_uri}; run a round first")
    return registry.named(workspace, f"{registry.model_name(variant)}/{chosen}")


def deployed(workspace: Workspace, variant: str) -> ModelVersion:
    """Return the immutable version of a variant that users meet, its hash in the tag `adapter_hash`.

    The ledger says which it is, and the alias is settled to that first. Before any promotion it is the seed policy that
    the seed's own ledger names. No other registered version reaches users.

    Raises:
        ValueError: the version is gone or is not the one that was promoted, or there is no seed policy.
    """
    entry = settle(workspace, variant) or _seed(workspace)
    if entry is None:
        raise ValueError(f"{variant} was never promoted, and {workspace.tracking_uri} has no seed policy; run a round")
    version = registry.named(workspace, entry.to_version)
    if version.tags.get("adapter_hash") != entry.adapter_hash:
        raise ValueError(
            f"{entry.to_version} has adapter {version.tags.get('adapter_hash')}, but entry {entry.number} of the "
            f"ledger says {entry.adapter_hash}: the registry was changed or replaced; restore it, or roll back"
        )
    return version


def seed_policy(workspace: Workspace) -> ModelVersion:
    """Return the seed policy that acts where nothing was promoted. Raises ValueError if there is none."""
    entry = _seed(workspace)
    if entry is None:
        raise ValueError(f"{workspace.tracking_uri} has no seed policy; run a round")
    return registry.named(workspace, entry.to_version)


def pin_seed(workspace: Workspace, seed: ModelVersion, reason: str = "registered as the seed policy") -> None:
    """Let this seed policy act wherever nothing was promoted; change nothing if the seed's ledger already names it."""
    store, model, name = workspace.open(), registry.model_name(SEED), f"{seed.name}/{seed.version}"
    while True:
        history = ledger.entries(store, model)
        last = history[-1] if history else None
        if last is not None and (last.to_version, last.adapter_hash) == (name, seed.tags["adapter_hash"]):
            return
        entry = ledger.promotion(
            history,
            model,
            from_version=last.to_version if last else name,
            to_version=name,
            adapter_hash=seed.tags["adapter_hash"],
            actor="respect",
            reason=reason,
        )
        with suppress(ledger.LedgerError):  # somebody else pinned one in the meantime: look again
            ledger.append(store, entry)
            return


def is_pinned(workspace: Workspace, seed: ModelVersion) -> bool:
    """Return whether this seed policy acts, or acted, where nothing was promoted."""
    _seed(workspace)
    pinned = {(each.to_version, each.adapter_hash) for each in ledger.entries(workspace.open(), seed.name)}
    return (f"{seed.name}/{seed.version}", seed.tags["adapter_hash"]) in pinned


def _seed(workspace: Workspace) -> ledger.Entry | None:
    """Return the last entry of the seed's ledger, or None if there is no seed policy.

    In a store of an earlier release, which has no such ledger, it begins with the newest registered seed policy.
    """
    store, model = workspace.open(), registry.model_name(SEED)
    if not store.keys(f"promotions/{model}/") and (newest := registry.latest(workspace, SEED)) is not None:
        pin_seed(workspace, newest, "the newest when it was first asked for")
    return ledger.last(store, model)


def settle(workspace: Workspace, variant: str) -> ledger.Entry | None:
    """Point the alias DEPLOYED to what the ledger's last entry says; return that entry, or None if there is none.

    After setting the alias, the ledger is read again, so that a slow process cannot undo what a later one did.
    """
    store, model = workspace.open(), registry.model_name(variant)
    last = ledger.last(store, model)
    while True:
        _point_deployed(workspace, model, last)
        seen, last = last, ledger.last(store, model)
        if seen == last:
            return last


def _point_deployed(workspace: Workspace, model: str, entry: ledger.Entry | None) -> None:
    """Set the alias; remove it if nothing is promoted, the seed policy (another model) is back, or the version gone."""
    name, _, number = entry.to_version.rpartition("/") if entry else ("", "", "")
    wanted = number if name == model else None
    current = registry.aliases(workspace, model).get(registry.DEPLOYED)
    if wanted == current:
        return
    mlflow = registry.client(workspace)
    if wanted in {str(version.version) for version in mlflow.search_model_versions(f"name='{model}'")}:
        mlflow.set_registered_model_alias(model, registry.DEPLOYED, wanted)
    elif current is not None:
        mlflow.delete_registered_model_alias(model, registry.DEPLOYED)
