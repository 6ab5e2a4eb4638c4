"""Carry out specifications on the nodes of a Ray cluster, each in its own process (`tasks.compute.process`).

Nodes share only the store. A job is a folder in it, `jobs/KIND/KEY/`, which receives the specification and then what
the work leaves; the Ray task itself takes the folder's name and returns nothing. A node sends its resume point after
every checkpoint, so that a job whose node is lost resumes from there on another one. Of drivers that ask for the same
work, one holds the folder's lease, and the others wait for what it leaves; a driver that must have it done again uses a
folder of its own below that one, and deletes no other.
Nodes talk to neither Prefect nor MLflow.

Decoding is split into several jobs of whole shards; the original specification then finds them all, and writes the
table.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from contextlib import nullcontext, suppress
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
from respect_core.settings import settings
from respect_core.store.base import Store, StoreError
from respect_core.store.leases import lease
from respect_core.store.open import open_store
from respect_core.versions import code_version
from tasks.compute import process
from tasks.compute.process import ProgressCallback, processes_of_training
from tasks.compute.specs import RESUME, DecodeSpec, Movable
from tasks.support import interruption

LOST = 3
"""How many times a job may be lost with its node before it fails; a retry of the task resumes from the same files."""
JOBS_PER_DEVICE = 2
"""Jobs of decoding: a device that is done early takes another, and a lost node loses little."""
_RESULT, _SPEC, _PROGRESS = "result.json", "spec.json", "progress.json"
_LEFT = {_SPEC, _PROGRESS}
"""Files of a job's folder that are not transferred with the others."""
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
    all_cores: bool = False,  # noqa: ARG001  # the arguments of process.run
    again: bool = False,
    spread: bool = False,
) -> Path:
    """Do what `process.run` does on nodes of the cluster. Results go to the store, and from there to `directory`.

    Args:
        all_cores: for work that cannot be split; decoding is split, and each job has a core or device.
        spread: for training, which takes a core or device of one node for each process (RESPECT_ACCELERATE, the same
            on driver and nodes).

    Raises:
        NoClusterError: there is no cluster at RAY_ADDRESS or on this machine.
        WorkerRefusedError, WorkerFailedError: as `process.run` does.
        ray.exceptions.RayError: the job was lost with its node more than LOST times.
    """

    def waiting() -> None:
        _log.warning("another driver has %s %s done; waiting until it ends", spec.kind, spec.key())

    connect()
    store = spec.workspace.open()
    own = uuid4().hex if again else ""
    whole = Job.of(spec, own)
    parts = _parts(store, spec, own) if isinstance(spec, DecodeSpec) and spec.only is None else []
    try:
        with nullcontext() if own else lease(store, whole.folder, waiting, sleep=interruption.sleep):
            if len(parts) > 1:
                _finish(store, parts, progress)
            if not store.exists(f"{whole.folder}/{_RESULT}"):
                _finish(store, [whole], progress, processes_of_training() if spread else 1)
        directory.mkdir(parents=True, exist_ok=True)
        (directory / _RESULT).unlink(missing_ok=True)
        (directory / _SPEC).write_text(spec.model_dump_json(indent=2))  # so that `process.run` recognises the result
        _fetch(store, whole.folder, directory, point=False)
    finally:
        if own:
            with suppress(StoreError):  # a few small files remain
                _delete(store, [*parts, whole])
    return directory / _RESULT


def connect() -> None:
    """Connect to the cluster at RAY_ADDRESS, or to the one on this machine, once per process."""
    with _connecting:
        if ray.is_initialized():
            return
        try:
            ray.init(address=settings().ray_address, log_to_driver=False, logging_level=logging.WARNING)
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
        """Return the job of a specification; with `own`, one that belongs only to the driver of that name."""
        return cls(spec, f"jobs/{spec.kind}/{spec.key()}{f'/{own}' if own else ''}")

    def submit(self, store: Store, processes: int) -> Any:
        """Put the specification and its adapter into the store, and hand the job to Ray; return its reference."""
        given = None
        if self.spec.adapter is not None:
            given = f"jobs/adapters/{adapter_hash(self.spec.adapter)}"
            store.upload_tree(self.spec.adapter, given)
        # Nodes do not use MLflow, whose address may contain a password.
        workspace = self.spec.workspace.model_copy(update={"tracking_uri": ""})
        spec = self.spec.model_copy(update={"workspace": workspace})
        store.put(f"{self.folder}/{_SPEC}", spec.model_dump_json(indent=2).encode())
        devices = {"num_gpus" if ray.cluster_resources().get("GPU") else "num_cpus": processes}
        options = {"name": self.folder, "max_retries": LOST, "scheduling_strategy": "SPREAD", **devices}
        return ray.remote(work).options(**options).remote(store.uri, self.folder, given, code_version())


def _parts(store: Store, spec: DecodeSpec, own: str) -> list[Job]:
    """Split decoding into a few jobs of adjacent shards per device; none of them writes a table."""
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
    """Return when all jobs are done. If one fails, cancel the others; the next try resumes them."""
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
    """Report the progress of a single job in its own terms, that of several in percent."""
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
    """Carry out the specification in a folder of the store, resuming an attempt that was lost.

    RESPECT_ROOT is where this node keeps scratch; without it, the driver's path is used.

    Args:
        given: folder of the store with the adapter that the work starts from.
        code: the driver's code version.

    Raises:
        ValueError: the node has another code version.
        WorkerRefusedError, WorkerFailedError: see `process.run`.
    """
    if code != code_version():
        raise ValueError(f"this node has respect {code_version()}, and the driver {code}; install the same on all")
    store = open_store(store_uri)
    if store.exists(f"{folder}/{_RESULT}"):
        return  # the node was lost after the last file, before it reported
    spec: Movable = TypeAdapter(Movable).validate_json(store.read(f"{folder}/{_SPEC}"))
    root = (settings().root or spec.workspace.root).resolve()
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
    """A job's folder on this node, and which of its files the store has."""

    def __init__(self, store: Store, folder: str, path: Path) -> None:
        self._store, self._folder, self._path = store, folder, path
        self._sent = {name: _stamp(file) for name, file in self._files().items()}
        self._told = 0.0

    def tell(self, done: int, total: int, note: str) -> None:
        """Store progress occasionally, and every new resume point. An unreachable store does not stop the work."""
        try:
            point = self._path / RESUME
            if point.exists() and _stamp(point) != self._sent.get(RESUME):
                self.send()
            if time.monotonic() - self._told > _TELL_SECONDS:
                text = json.dumps({"done": done, "total": total, "note": note})
                self._store.put(f"{self._folder}/{_PROGRESS}", text.encode())
                self._told = time.monotonic()
        except (StoreError, OSError) as error:  # OSError: the work has just replaced a file
            _log.warning("not sent, for now: %s", error)

    def send(self) -> None:
        """Send everything new: the resume point after the files that it refers to, and the result last."""
        with TemporaryDirectory(dir=self._path.parent) as scratch:
            point = Path(scratch, RESUME)
            with suppress(FileNotFoundError):  # keep its present state: the work will replace it
                point.hardlink_to(self._path / RESUME)
            files = self._files()
            last = {RESUME: point if point.exists() else None, _RESULT: files.pop(_RESULT, None)}
            for name, file in [*files.items(), *last.items()]:
                if file is not None and self._sent.get(name) != (stamp := _stamp(file)):
                    self._store.put_file(f"{self._folder}/{name}", file)
                    self._sent[name] = stamp

    def _files(self) -> dict[str, Path]:
        """Finished files by their names in the folder, except resume point and specification."""
        files = {path.relative_to(self._path).as_posix(): path for path in sorted(self._path.rglob("*"))}
        return {
            name: path
            for name, path in files.items()
            if path.is_file() and name not in _LEFT and not name.startswith((".", RESUME))
        }


def _stamp(file: Path) -> tuple[int, int]:
    """Return a value that changes when the file does."""
    stat = file.stat()
    return stat.st_mtime_ns, stat.st_size


def _fetch(store: Store, folder: str, directory: Path, *, point: bool = True) -> None:
    """Fetch what the store has of a job, the result last, with or without its resume point."""
    directory.mkdir(parents=True, exist_ok=True)
    names = [key.removeprefix(f"{folder}/") for key in store.keys(f"{folder}/")]
    for name in sorted(names, key=lambda name: (name == _RESULT, name)):
        if name not in _LEFT and (point or name != RESUME):
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            (directory / name).write_bytes(store.read(f"{folder}/{name}"))
