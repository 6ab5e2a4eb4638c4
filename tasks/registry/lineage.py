"""What a registered version learned from: recorded at its registration, shown as a tree, found by turn or user."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
from mlflow.entities.model_registry import ModelVersion
from rich.markup import escape
from rich.table import Table
from rich.tree import Tree

from respect_core.release import ledger, lineage
from respect_core.release.lineage import Learned, Lineage, Source
from respect_core.store.base import Store
from respect_core.store.manifests import Input, Partition
from respect_core.training_data import curated
from tasks.registry import registry
from tasks.support.workspace import Workspace

_SHOWN = 5  # log objects of a turns table


def prepare_lineage(workspace: Workspace, tags: Mapping[str, Any], run_id: str) -> tuple[Lineage, pa.Table]:
    """Return what an adapter with these tags learned from, before its version has a number.

    Raises:
        LineageError: its training set is gone or was rebuilt from other data.
    """
    store, parent = workspace.open(), tags.get("parent_version", "none")
    return lineage.describe(
        store,
        registry.model_name(tags["variant"]),
        Partition(int(tags["round"]), tags["variant"]),
        _d0(store),
        run_id=run_id,
        adapter_hash=tags["adapter_hash"],
        parent=None if parent == "none" else parent,
        # Versions from before this was tagged may continue from their parents: better one too many than one too few.
        continued=parent != "none" and str(tags.get("continued", True)) == "True",
        data_hash=tags["data_hash"],
    )


def keep_lineage(workspace: Workspace, version: ModelVersion, prepared: tuple[Lineage, pa.Table] | None = None) -> None:
    """Write what a version learned from, unless it is recorded. Raises LineageError as `prepare_lineage` does."""
    store, name = workspace.open(), f"{version.name}/{version.version}"
    if not store.exists(lineage.key(name)):
        described, rows = prepared or prepare_lineage(workspace, version.tags, str(version.run_id))
        lineage.write(store, described.model_copy(update={"version": name}), rows)


def _d0(store: Store) -> tuple[Input, dict[str, str]] | None:
    if not curated.exists(store, curated.D0):
        return None
    users = {log.interaction_id: log.user for log in curated.read(store, curated.D0)}
    return curated.stored(store, curated.D0), users


def tree(workspace: Workspace, version: str) -> Tree:
    """Return a tree from a version to its deployments, its parents and everything that it was made from.

    Raises:
        ValueError: not a registered version, or its lineage was not recorded.
    """
    store = workspace.open()
    found = registry.named(workspace, version)
    keep_lineage(workspace, found)
    known = lineage.read(store, version)
    assert known is not None, "it was kept"
    number = str(found.version)
    aliases = [name for name, of in registry.aliases(workspace, found.name).items() if of == number]
    root = Tree(f"[bold]{version}[/] {' '.join(f'@{alias}' for alias in sorted(aliases))}".rstrip())
    root.add(f"adapter {known.adapter_hash}")
    root.add(f"MLflow run {known.run_id}, round {known.round}, code {known.code_version}")
    _deployments(root, store, found.name, version)
    _parents(root, store, known)
    data = root.add(f"training set {known.training_set.key} (manifest {known.training_set.sha256[:12]})")
    data.add(f"data {known.data_hash}")
    data.add(", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in known.counts.items()))
    for source in known.sources:
        _source(data, source)
    return root


def _deployments(root: Tree, store: Store, model: str, version: str) -> None:
    for entry in ledger.entries(store, model):
        ends = {entry.to_version: "deployed", entry.from_version: f"gave way to {entry.to_version}"}
        if entry.action in (ledger.Action.CANARY, ledger.Action.END):
            ends = {entry.canary.candidate: "on trial"} if entry.canary else {}
        if version in ends:
            why = f": {escape(entry.reason)}" if entry.reason else ""
            root.add(f"{ends[version]} {entry.time[:19]} by {escape(entry.actor)}, {entry.action} {entry.number}{why}")


def _parents(root: Tree, store: Store, known: Lineage) -> None:
    """Add the chain of parents, each below the version that continues from it."""
    branch, child = root, known
    while child.parent is not None:
        parent = lineage.read(store, child.parent)
        how = "continues the weights of" if child.continued else "comes after"
        what = f"round {parent.round}, data {parent.data_hash[:12]}" if parent else "whose lineage was not recorded"
        branch = branch.add(f"{how} [bold]{child.parent}[/], {what}")
        if parent is None:
            return
        child = parent


def _source(data: Tree, source: Source) -> None:
    node = data.add(f"{source.input.key} ({source.input.sha256[:12]})")
    for name, value in source.decoder.items():
        node.add(f"{name} {escape(value)}")
    for log in source.logs[:_SHOWN]:
        node.add(f"{log.key} ({log.sha256[:12]})")
    if len(source.logs) > _SHOWN:
        node.add(f"and {len(source.logs) - _SHOWN} more log objects")


def table(title: str, found: Sequence[Learned]) -> Table:
    """Return a table of the versions that learned from something, and how."""
    shown = Table("version", "turns", "labels", "how", title=title)
    for each in found:
        labels = [label for _, _, label, _ in each.turns]
        counted = ", ".join(
            f"{labels.count(value)} {name}"
            for value, name in ((1, "+"), (-1, "-"), (None, "context"))
            if value in labels
        )
        how = f"continues {each.through}" if each.through else ", ".join(sorted({row[3] for row in each.turns}))
        shown.add_row(each.version, str(len(each.turns)), counted, how)
    return shown
