"""What must be true after any accident; each check returns sentences about what is not."""

from __future__ import annotations

import itertools
import json
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from running import RunningStack

from respect_core.log import served_chats
from respect_core.log.export import export_everything
from respect_core.log.log import LOGS, read_logs
from respect_core.release import ledger
from respect_core.store import leases, tables
from respect_core.store.base import Store
from respect_core.store.open import open_store
from respect_core.variants import SEED
from tasks.registry import registry

TABLES = ("turns", "outcomes")
AT_WORK = ["RUNNING", "PENDING", "CANCELLING"]


def conversations(store: Store, answered: Mapping[str, str], figures: dict[str, int]) -> list[str]:
    """Every reply whose end arrived is in the log exactly once, with the version that the user was told."""
    served = list(served_chats.read(store))
    times, versions = Counter(chat.id for chat in served), {chat.id: chat.version for chat in served}
    figures |= {"replies acknowledged": len(answered), "replies in the log": len(served)}
    wrong = [f"reply {id} is there {times[id]} times" for id in answered if times[id] != 1]
    wrong += [f"reply {id} is there {count} times" for id, count in times.items() if count > 1 and id not in answered]
    wrong += [
        f"reply {id} is of {versions[id]}, not {said}"
        for id, said in answered.items()
        if versions.get(id, said) != said
    ]
    return wrong


def games(store: Store, acknowledged: Mapping[tuple[str, int], str], figures: dict[str, int]) -> list[str]:
    """Every acknowledged turn is in its game's record as it was said, and no game is in the log twice."""
    records = [json.loads(store.read(key)) for key in store.keys("games/")]
    said = {(record["game"], n): turn["utterance"] for record in records for n, turn in enumerate(record["turns"])}
    times = Counter(record["game"] for record in records)
    logged = Counter(log.interaction_id for key in store.keys(f"{LOGS}/") for log in read_logs(store, key))
    figures |= {"turns acknowledged": len(acknowledged), "games": len(records)}
    wrong = [
        f"{turn}: {text!r} is stored as {said.get(turn)!r}"
        for turn, text in acknowledged.items()
        if said.get(turn) != text
    ]
    return wrong + [
        f"{name} is stored {count} times"
        for name, count in (times + logged).items()
        if count > 1 and (times[name] > 1 or logged[name] > 1)
    ]


def exported(store: Store, folder: Path, figures: dict[str, int]) -> list[str]:
    """The tables are those of a clean export of the same logs, and no interaction was collected twice."""
    export_everything(store)  # which takes, and so frees, the lease
    clean = open_store(folder)
    for start in (f"{LOGS}/", "images/"):
        for key in store.keys(start):
            clean.put(key, store.read(key))
    export_everything(clean)
    ids = Counter(log.interaction_id for key in store.keys(f"{LOGS}/") for log in read_logs(store, key))
    figures["interactions"] = len(ids)
    wrong = [f"interaction {id} is in the log {count} times" for id, count in ids.items() if count > 1]
    for name in TABLES:
        rows = [sorted(map(_row, tables.read_table(each, name).to_pylist())) for each in (store, clean)]
        figures[f"rows of {name}"] = len(rows[0])
        if rows[0] != rows[1]:
            wrong.append(f"{name} has {len(rows[0])} rows, and {len(rows[1])} after a clean export, or others")
    return wrong


def released(store: Store, mlflow: MlflowClient, figures: dict[str, int]) -> list[str]:
    """Entries have no gap (reading one raises), each starts where the last ended, and the alias has settled.

    The seed policy has none.
    """
    wrong = []
    for model in ledger.models(store):
        history = ledger.entries(store, model)
        figures[f"entries of {model}"] = len(history)
        for before, entry in itertools.pairwise(history):
            if entry.from_version != before.to_version:
                wrong.append(f"{model}: entry {entry.number} starts from {entry.from_version}, not {before.to_version}")
        name, _, number = history[-1].to_version.rpartition("/")
        alias = mlflow.get_registered_model(model).aliases.get(registry.DEPLOYED)
        if model != registry.model_name(SEED) and name == model and alias != number:
            wrong.append(f"{model}: the alias is at {alias}, and the ledger says {number}")
    return wrong


def registered(mlflow: MlflowClient, figures: dict[str, int]) -> list[str]:
    """A round registered each variant once, and every version is whole."""
    wrong, made = [], Counter[tuple[str, str]]()
    for version in mlflow.search_model_versions():
        made[version.name, version.tags.get("recipe") or version.tags.get("adapter_hash", "")] += 1
        if version.status != "READY":
            wrong.append(f"{version.name}/{version.version} is {version.status}")
    figures["versions"] = made.total()
    return wrong + [f"{name} has {count} versions of one recipe" for (name, _), count in made.items() if count > 1]


def nothing_held(stack: RunningStack, store: Store, seconds: float) -> list[str]:
    """No run is at work, no slot is taken and no lease is held once the last run that was lost has been ended."""
    deadline = time.monotonic() + seconds
    while (wrong := _held(stack, store)) and time.monotonic() < deadline:
        time.sleep(5.0)
    return wrong


def _held(stack: RunningStack, store: Store) -> list[str]:
    at_work = stack.api.post("/flow_runs/filter", json={"flow_runs": {"state": {"type": {"any_": AT_WORK}}}}).json()
    wrong = [f"run {run['name']!r} is {run['state_name']}" for run in at_work]
    limits: list[dict[str, Any]] = stack.api.post("/v2/concurrency_limits/filter", json={}).json()
    wrong += [
        f"{limit['active_slots']} slots of {limit['name']} are taken" for limit in limits if limit["active_slots"]
    ]
    held = [key for key in store.keys("leases/") if store.read(key) != leases._FREE]
    return wrong + [f"{key} is held" for key in held]


def _row(row: dict[str, Any]) -> str:
    return json.dumps(row, sort_keys=True, default=str)
