"""What a run on a work pool leaves for the flow that asked for it: a small record in the store, named by its inputs.

The record is written last, so its presence means that the work is finished. Its name is the run's idempotency key too.
A record may outlive the registry that it points into: then the work counts as not done.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel

from respect_core.store.base import MissingKeyError, Store
from respect_core.store.manifests import Partition
from respect_core.versions import code_version, json_hash
from tasks.registry import registry
from tasks.support.references import LearnedRef, RegisteredRef
from tasks.support.workspace import Workspace

_log = logging.getLogger(__name__)

Result = TypeVar("Result", bound=BaseModel)
_STAGES = (
    *("tasks.round.decode", "tasks.round.subsample", "tasks.round.train", "tasks.round.select"),
    *("tasks.registry.register", "tasks.compute.worker", "tasks.release.guard_rails"),
)
"""Modules whose code, with their imports, determines what a run on a work pool leaves."""


def key(kind: str, round: int, variant: str, made_from: Mapping[str, Any]) -> str:
    """Return the key of the result for these inputs; the code's version is one of them."""
    digest = json_hash({**made_from, "code": code_version(*_STAGES)})[:32]
    return f"{Partition(round, variant).folder(f'results/{kind}')}{digest}.json"


def find(workspace: Workspace, key: str, kind: type[Result]) -> Result | None:
    """Return the record, if the work is finished and the version it names, if any, is registered."""
    try:
        found = kind.model_validate_json(workspace.open().read(key))
    except MissingKeyError:
        return None
    version = found.registered if isinstance(found, LearnedRef) else found
    if isinstance(version, RegisteredRef) and not registry.holds(workspace, version):
        _log.warning(
            "%s names %s/%s with adapter %s, which %s does not have: the work is done again",
            *(key, version.model, version.version, version.adapter_hash, workspace.tracking_uri),
        )
        return None
    return found


def put(store: Store, key: str, result: BaseModel) -> None:
    store.put(key, result.model_dump_json(indent=1).encode())
