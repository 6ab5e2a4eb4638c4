"""Carry out specifications on the nodes of a Ray cluster, each in its own process (`tasks.compute.process`).

The store is all that nodes share. A job is a folder of it, `jobs/KIND/KEY/`: the specification goes in, and what the
work leaves comes out; the Ray task itself takes the folder's name and returns nothing. A node sends its resume point
after every checkpoint, so that a job whose node is lost resumes there on another one. Drivers that ask for the same
share the folder; one that must have the work done again has a folder of its own below it, and deletes no other. Nodes
talk to neither Prefect nor MLflow.

Decoding is cut into several jobs of whole shards; the specification as it was then finds them all, and writes the
table.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from typing import Any
from uuid import uuid4

import ray
from pydantic import TypeAdapter
from ray.exceptions import RayTaskError

from respect_core.errors import ExpectedError
from respect_core.feedback import shards
from respect_core.model.base import adapter_hash
from respect_core.store.base import Store, StoreError
from respect_core.store.open import open_store
from respect_core.versions import code_version
from tasks.compute import process
from tasks.compute.process import ProgressCallback, processes_of_training
from tasks.compute.specs import RESUME, DecodeSpec, Movable
from tasks.support import interruption

LOST = 3
"""So often a job may be lost with its node before it fails; a task's further try then goes on from the same files."""
JOBS_PER_DEVICE = 2
"""Of decoding: who is done early takes another, and what a lost node had begun is small."""
_RESULT, _SPEC, _PROGRESS = "result.json", "spec.json", "progress.json"
_LEFT = {_SPEC, _PROGRESS}
"""Files of a job's folder that do not travel with the others."""
_POLL_SECONDS = 2.0
_TELL_SECONDS = 5.0
_log = logging.getLogger(__name__)
_connecting = Lock()


class NoClusterError(ExpectedError, ValueError):
    """No Ray cluster is available; the message says what to do."""


# --- the driver -------------------------------------------------------------------------------------------------


def run(
    spec: Movable,
    directory: Path,
    progress: ProgressCallback,
    *,
    all_cores: bool = False,
    again: bool = False,
    spread: bool = False,
) -> Path:
    """As `process.run`, on nodes of the cluster. What the work leaves is in the store, and then in `directory`.

    Args:
        all_cores: for work that cannot be cut; decoding is, and each job has a core or device.
        spread: for training, which takes a core or device of one node for each process (RESPECT_ACCELERATE, the same
            on driver and nodes).

    Raises:
        NoClusterError: there is none at RAY_ADDRESS, nor on this machine.
        WorkerRefusedError, WorkerFailedError: as there.
        ray.exceptions.RayError: the job was lost with its node more than LOST times.
    """
    connect()
    store = spec.workspace.open()
    own = uuid4().hex if again else ""
    whole = Job.of(spec, own)
    parts = _parts(store, spec, own) if isinstance(spec, DecodeSpec) and spec.only is None else []
    try:
        if len(parts) > 1:
            _finish(store, parts, progress)
        if not store.exists(f"{whole.folder}/{_RESULT}"):
            _finish(store, [whole], progress, processes_of_training() if spread else 1)
        directory.mkdir(parents=True, exist_ok=True)
        (directory / _RESULT).unlink(missing_ok=True)
        (directory / _SPEC).write_text(spec.model_dump_json(indent=2))  # so that `process.run` knows whose result it is
        _fetch(store, whole.folder, directory, point=False)
    finally:
        if own:
            with suppress(StoreError):  # a few small files stay
                _delete(store, [*parts, whole])
    return directory / _RESULT


def connect() -> None:
    """Use the cluster of RAY_ADDRESS, or the one that runs on this machine. Once a process."""
    with _connecting:
        if ray.is_initialized():
            return
        try:
            ray.init(address=os.environ.get("RAY_ADDRESS", "auto"), log_to_driver=False, logging_level=logging.WARNING)
        except ConnectionError as error:
            raise NoClusterError(
                f"no Ray cluster ({error}); start one with `ray start --head --disable-usage-stats`, or set "
                "RAY_ADDRESS, and RAY_AUTH_MODE=token where the cluster asks for a token; docs/scaling.md says how"
            ) from error


@dataclass(frozen=True)
class Job:
    """A specification and its folder in the store."""

    spec: Movable
    folder: str

    @classmethod
    def of(cls, spec: Movable, own: str = "") -> Job:
        """The job of a specification; with `own`, of the driver of that name alone."""
        return cls(spec, f"jobs/{spec.kind}/{spec.key()}{f'/{own}' if own else ''}")

    def submit(self, store: Store, processes: int) -> Any:
        """Leave the specification, with its adapter, in the store, and hand the job to Ray; returns its reference."""
        given = None
        if self.spec.given is not None:
            given = f"jobs/adapters/{adapter_hash(self.spec.given)}"
            store.upload_tree(self.spec.given, given)
        # Nodes have no use for MLflow, whose address may hold a password.
        workspace = self.spec.workspace.model_copy(update={"tracking_uri": ""})
        spec = self.spec.model_copy(update={"workspace": workspace})
        store.put(f"{self.folder}/{_SPEC}", spec.model_dump_json(indent=2).encode())
        devices = {"num_gpus" if ray.cluster_resources().get("GPU") else "num_cpus": processes}
        options = {"name": self.folder, "max_retries": LOST, "scheduling_strategy": "SPREAD", **devices}
        return ray.remote(work).options(**options).remote(store.uri, self.folder, given, code_version())


def _parts(store: Store, spec: DecodeSpec, own: str) -> list[Job]:
    """Decoding in a few jobs for each device, of neighbouring shards; none of them writes a table."""
    resources = ray.cluster_resources()
    devices = int(resources.get("GPU") or resources.get("CPU", 1))
    jobs = []
    for partition in spec.partitions:
        numbers = list(range(shards.count_shards(store, partition, spec.turns_per_shard, spec.chosen())))
        size = max(1, -(-len(numbers) // (JOBS_PER_DEVICE * devices)))
        for start in range(0, len(numbers), size):
            changes: dict[str, Any] = {"partitions": [partition], "shards": numbers[start : start + size]}
            jobs.append(Job.of(spec.model_copy(update=changes), own))
    return jobs


def _finish(store: Store, jobs: Sequence[Job], progress: ProgressCallback, processes: int = 1) -> None:
    """Return when all jobs are done. When one fails, cancel the others; the next try resumes them."""
    waiting = {job.submit(store, processes): job for job in jobs}
    try:
        while waiting:
            done, _ = ray.wait(list(waiting), timeout=_POLL_SECONDS)
            interruption.check()
            for reference in done:
                ray.get(reference)
                del waiting[reference]
            _tell(store, list(waiting.values()), len(jobs), progress)
    except RayTaskError as error:
        raise error.cause from error
    finally:
        for reference in waiting:
            ray.cancel(reference, force=True)


def _delete(store: Store, jobs: Sequence[Job]) -> None:
    for job in jobs:
        for key in store.keys(f"{job.folder}/"):
            store.delete(key)


def _tell(store: Store, waiting: Sequence[Job], jobs: int, progress: ProgressCallback) -> None:
    """Progress of the one job in its own words, of several in parts of a hundred."""
    told = []
    for job in waiting:
        with suppress(StoreError):
            told.append(json.loads(store.read(f"{job.folder}/{_PROGRESS}")))
    if jobs == 1 and told:
        progress(told[0]["done"], told[0]["total"], told[0]["note"])
    elif jobs > 1:
        parts = jobs - len(waiting) + sum(each["done"] / max(1, each["total"]) for each in told)
        progress(int(100 * parts / jobs), 100, f"{jobs - len(waiting)} of {jobs} jobs done")


# --- a node -----------------------------------------------------------------------------------------------------


def work(store_uri: str, folder: str, given: str | None, code: str) -> None:
    """Carry out the specification in a folder of the store, from where an earlier attempt was lost.

    RESPECT_ROOT is where this node keeps scratch; without it, the driver's path is used.

    Args:
        given: folder of the store with the adapter that the work begins with.
        code: the driver's version.

    Raises:
        ValueError: the node has another version.
        WorkerRefusedError, WorkerFailedError: see `process.run`.
    """
    if code != code_version():
        raise ValueError(f"this node has respect {code_version()}, and the driver {code}; install the same on all")
    store = open_store(store_uri)
    if store.exists(f"{folder}/{_RESULT}"):
        return  # the node was lost between the last file and its word
    spec: Movable = TypeAdapter(Movable).validate_json(store.read(f"{folder}/{_SPEC}"))
    root = Path(os.environ.get("RESPECT_ROOT", spec.workspace.root)).resolve()
    (root / "work").mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=root / "work", prefix="job-") as scratch:
        place, adapter = Path(scratch, "job"), Path(scratch, "given") if given else None
        if given and adapter:
            store.download_tree(given, adapter)
        _fetch(store, folder, place)
        copy = _Copy(store, folder, place)
        workspace = spec.workspace.model_copy(update={"root": root, "store_uri": store_uri})
        process.run(spec.moved(workspace, place, adapter), place, copy.tell, spread=spec.kind == "train")
        copy.send()


class _Copy:
    """A job's folder on this node, and what of it the store has."""

    def __init__(self, store: Store, folder: str, path: Path) -> None:
        self._store, self._folder, self._path = store, folder, path
        self._sent = {name: _stamp(file) for name, file in self._files().items()}
        self._told = 0.0

    def tell(self, done: int, total: int, note: str) -> None:
        """Store progress now and then, and every new resume point. An unreachable store does not stop the work."""
        try:
            point = self._path / RESUME
            if point.exists() and _stamp(point) != self._sent.get(RESUME):
                self.send()
            if time.monotonic() - self._told > _TELL_SECONDS:
                text = json.dumps({"done": done, "total": total, "note": note})
                self._store.put(f"{self._folder}/{_PROGRESS}", text.encode())
                self._told = time.monotonic()
        except (StoreError, OSError) as error:  # the latter where the work replaced a file meanwhile
            _log.warning("not sent, for now: %s", error)

    def send(self) -> None:
        """Everything new: the resume point behind the files that it speaks of, and the result behind everything."""
        with TemporaryDirectory(dir=self._path.parent) as scratch:
            point = Path(scratch, RESUME)
            with suppress(FileNotFoundError):  # held as it is at this moment: the work will replace it
                point.hardlink_to(self._path / RESUME)
            files = self._files()
            last = {RESUME: point if point.exists() else None, _RESULT: files.pop(_RESULT, None)}
            for name, file in [*files.items(), *last.items()]:
                if file is not None and self._sent.get(name) != (stamp := _stamp(file)):
                    self._store.put_file(f"{self._folder}/{name}", file)
                    self._sent[name] = stamp

    def _files(self) -> dict[str, Path]:
        """Finished files by their names in the folder, but for resume point and specification."""
        files = {path.relative_to(self._path).as_posix(): path for path in sorted(self._path.rglob("*"))}
        return {
            name: path
            for name, path in files.items()
            if path.is_file() and name not in _LEFT and not name.startswith((".", RESUME))
        }


def _stamp(file: Path) -> tuple[int, int]:
    """Changes when the file does."""
    stat = file.stat()
    return stat.st_mtime_ns, stat.st_size


def _fetch(store: Store, folder: str, directory: Path, *, point: bool = True) -> None:
    """What the store has of a job, the result last, with its resume point or without."""
    directory.mkdir(parents=True, exist_ok=True)
    names = [key.removeprefix(f"{folder}/") for key in store.keys(f"{folder}/")]
    for name in sorted(names, key=lambda name: (name == _RESULT, name)):
        if name not in _LEFT and (point or name != RESUME):
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            (directory / name).write_bytes(store.read(f"{folder}/{name}"))
