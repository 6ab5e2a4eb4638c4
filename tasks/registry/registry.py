"""The registry in MLflow: runs of a round, adapters as logged models, registered versions and their aliases.

Every call goes through one client built from the workspace, and none depends on MLflow's global state, so tasks in
threads cannot write into each other's runs.

Layout: an experiment per study; in it a run per round; below that a run per variant; below that one per seed. A
variant's chosen adapter is a logged model of its run, registered as `respect.<variant>`.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from mlflow.data.code_dataset_source import CodeDatasetSource
from mlflow.data.meta_dataset import MetaDataset
from mlflow.entities import DatasetInput, InputTag, LoggedModelStatus, Metric, Param, Run, RunTag
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from respect_core.errors import ExpectedError
from respect_core.variants import SEED, Variant, original
from tasks.registry.forgotten import tainted
from tasks.support.files import passing
from tasks.support.interruption import interrupts
from tasks.support.references import RegisteredRef
from tasks.support.retries import is_transient
from tasks.support.workspace import Workspace

CANDIDATE = "candidate"
"""Alias of the newest version of a model that has been trained and not yet promoted. Aliases are case-sensitive, and
MLflow keeps no record of their changes: use these constants."""

DEPLOYED = "deployed"
"""Alias of the version in front of users: what the ledger says. Only `tasks.registry.deployed` sets it."""

RETRAINED = "retrained"
"""Tag of a version that was trained by hand, apart from a round's own. No round continues from it."""

VALIDATED = "validation.json"
"""Artifact of a variant's run: what the chosen checkpoint did on each validation turn."""

Status = Literal["FINISHED", "FAILED", "KILLED"]
"""How a run ended; MLflow's words."""


class AdapterMismatchError(ExpectedError, ValueError):
    """A version's files are not those that were registered."""


def model_name(variant: str) -> str:
    return f"respect.{variant}"


def client(workspace: Workspace) -> MlflowClient:
    """Make MLflow's client for the workspace.

    Raises:
        ValueError: MLflow cannot use the URI; the message has it without its password.
    """
    uri = workspace.tracking
    try:
        return MlflowClient(tracking_uri=uri, registry_uri=uri)
    except MlflowException as error:
        if uri == workspace.tracking_uri or uri not in str(error):
            raise
        raise ValueError(str(error).replace(uri, workspace.tracking_uri)) from None


def experiment_id(workspace: Workspace) -> str:
    """Return the study's experiment, made if absent."""
    mlflow, name = client(workspace), workspace.experiment
    if (experiment := mlflow.get_experiment_by_name(name)) is None:
        # A tracking server decides where artifacts go; a plain database would put them in the caller's folder.
        local = workspace.tracking_uri.startswith("sqlite:")
        location = (workspace.root / "mlartifacts").as_uri() if local else None
        try:
            return str(mlflow.create_experiment(name, artifact_location=location))
        except MlflowException:
            if (experiment := mlflow.get_experiment_by_name(name)) is None:  # else somebody else has made it since
                raise
    return str(experiment.experiment_id)


def start_run(
    workspace: Workspace, name: str, parent: str | None = None, tags: Mapping[str, Any] = {}
) -> str:  # read only
    """Start a run, open until `end_run`; return its id."""
    lineage = {MLFLOW_PARENT_RUN_ID: parent} if parent else {}
    texts = {key: str(value) for key, value in tags.items()}
    run = client(workspace).create_run(experiment_id(workspace), run_name=name, tags=lineage | texts)
    return str(run.info.run_id)


def reopen(workspace: Workspace, run_id: str) -> None:
    """Open a run again, until it is ended again."""
    client(workspace).update_run(run_id, "RUNNING")


def child_run(workspace: Workspace, parent: str, name: str) -> str:
    """Return the id of the child run of that name, made if absent."""
    runs = attempts(workspace, name, parent)
    return str(runs[0].info.run_id) if runs else start_run(workspace, name, parent)


def attempts(workspace: Workspace, name: str, parent: str | None = None) -> list[Run]:
    """Return the runs of that name below that parent, the newest first."""
    found = client(workspace).search_runs([experiment_id(workspace)], f"attributes.run_name = '{name}'")
    return [run for run in found if run.data.tags.get(MLFLOW_PARENT_RUN_ID) == parent]


def left_open(workspace: Workspace, name: str, parent: str | None = None) -> list[Run]:
    """Those of `attempts` that are still open, as killed processes leave them."""
    return [run for run in attempts(workspace, name, parent) if run.info.status == "RUNNING"]


def _discard(mlflow: MlflowClient, model: str) -> None:
    """Have a logged model's files deleted by the next `mlflow gc`."""
    mlflow.finalize_logged_model(model, LoggedModelStatus.FAILED)
    mlflow.delete_logged_model(model)


def end_killed_below(workspace: Workspace, run_id: str) -> None:
    """End the open runs below a run as killed."""
    wanted = f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{run_id}' and attributes.status = 'RUNNING'"
    for child in client(workspace).search_runs([experiment_id(workspace)], wanted):
        end_run(workspace, str(child.info.run_id), "KILLED")


def logged_steps(workspace: Workspace, run_id: str, metric: str) -> set[int]:
    """Return the steps at which a metric has been logged."""
    return {point.step for point in client(workspace).get_metric_history(run_id, metric)}


def end_run(workspace: Workspace, run_id: str, status: Status = "FINISHED") -> None:
    """End a run, and the open runs below it as killed; discard a killed run's model if it did not become a version."""
    mlflow = client(workspace)
    end_killed_below(workspace, run_id)
    if status == "KILLED" and not mlflow.search_model_versions(f"run_id = '{run_id}'"):
        for model in mlflow.search_logged_models([experiment_id(workspace)], f"source_run_id = '{run_id}'"):
            _discard(mlflow, model.model_id)
    mlflow.set_terminated(run_id, status)


def status_after(error: BaseException) -> Status:
    """Return the status of a run that an error ended: killed if somebody interrupted it, else failed."""
    return "KILLED" if interrupts(error) else "FAILED"


@contextmanager
def ended(workspace: Workspace, run_id: str) -> Iterator[str]:
    """End an open run with the block, with a status according to how the block ends."""
    try:
        yield run_id
    except BaseException as error:
        with suppress(MlflowException):  # MLflow itself may be unreachable: the next attempt ends this run
            end_run(workspace, run_id, status_after(error))
        raise
    end_run(workspace, run_id)


def log(
    workspace: Workspace,
    run_id: str,
    *,
    params: Mapping[str, Any] | None = None,
    metrics: Sequence[tuple[str, float, int]] = (),
    tags: Mapping[str, Any] | None = None,
) -> None:
    """Log parameters, metrics as (name, value, step), and tags, in as few calls as MLflow's batch limits allow."""
    mlflow, now = client(workspace), int(time.time() * 1000)
    mlflow.log_batch(
        run_id,
        params=[Param(key, str(value)[:6000]) for key, value in (params or {}).items()],
        tags=[RunTag(key, str(value)) for key, value in (tags or {}).items()],
    )
    entries = [Metric(name, float(value), now, step) for name, value, step in metrics]
    for start in range(0, len(entries), 1000):
        mlflow.log_batch(run_id, metrics=entries[start : start + 1000])


def log_dataset(workspace: Workspace, run_id: str, name: str, uri: str, data_hash: str) -> None:
    """Name the training data of a run by our own digest; MLflow's digest ignores list columns and long tables."""
    source = CodeDatasetSource({"uri": uri})
    dataset = MetaDataset(source, name=name, digest=data_hash[:32])  # type: ignore[abstract]  # MLflow itself makes it so
    client(workspace).log_inputs(
        run_id, datasets=[DatasetInput(dataset._to_mlflow_entity(), tags=[InputTag("data_hash", data_hash)])]
    )


def register_adapter(
    workspace: Workspace,
    run_id: str,
    variant: str,
    directory: Path,
    *,
    tags: Mapping[str, Any],
    metrics: Mapping[str, float],
    step: int,
) -> ModelVersion:
    """Log a directory (adapter, processor, model card) as a model of the run and register it as a candidate.

    One with the tag RETRAINED does not move the alias. The version appears only once all files are in place, so that a
    reader never sees half a model.

    Raises:
        FileNotFoundError: no adapter in the directory; MLflow would silently register nothing.
    """
    if not (directory / "adapter_config.json").is_file():
        raise FileNotFoundError(f"no adapter in {directory}: adapter_config.json is missing")
    mlflow = client(workspace)
    texts = {key: str(value) for key, value in tags.items()}
    logged = mlflow.create_logged_model(
        experiment_id(workspace), name=variant, source_run_id=run_id, tags=texts, model_type="peft-adapter"
    )
    try:
        mlflow.log_model_artifacts(logged.model_id, str(directory))
    except BaseException:
        _discard(mlflow, logged.model_id)
        raise
    mlflow.finalize_logged_model(logged.model_id, "READY")
    for name, value in metrics.items():
        mlflow.log_metric(run_id, name, value, step=step, model_id=logged.model_id)
    name = model_name(variant)
    if not mlflow.search_registered_models(f"name='{name}'"):
        mlflow.create_registered_model(name)
    version = mlflow.create_model_version(
        name, logged.artifact_location, run_id=run_id, tags=texts, model_id=logged.model_id
    )
    if RETRAINED not in texts:
        mlflow.set_registered_model_alias(name, CANDIDATE, version.version)
    return version


def finish(workspace: Workspace, variant: str, version: ModelVersion) -> None:
    """Finish a registration that was cut off right after its version was made: set the alias, end the open run."""
    mlflow, newest, run_id = client(workspace), latest(workspace, variant), str(version.run_id)
    if newest is not None and newest.version == version.version:
        mlflow.set_registered_model_alias(version.name, CANDIDATE, version.version)
    if mlflow.get_run(run_id).info.status != "FINISHED":
        end_run(workspace, run_id)


def versions(workspace: Workspace, variant: str) -> list[ModelVersion]:
    """All registered versions of a variant."""
    return list(client(workspace).search_model_versions(f"name='{model_name(variant)}'"))


def of_rounds(workspace: Workspace, variant: str) -> list[ModelVersion]:
    """Return the versions of a variant that rounds registered: all except those retrained by hand."""
    return [version for version in versions(workspace, variant) if RETRAINED not in version.tags]


def latest(
    workspace: Workspace, variant: str, before_round: int | None = None, without: Collection[str] = ()
) -> ModelVersion | None:
    """Return the newest version of a variant, only among those trained on rounds before `before_round` if given.

    Args:
        without: versions that do not count.
    """
    of_variant = [v for v in of_rounds(workspace, variant) if f"{v.name}/{v.version}" not in without]
    eligible = [v for v in of_variant if before_round is None or int(v.tags["round"]) < before_round]
    return max(eligible, key=lambda v: (int(v.tags["round"]), int(v.version)), default=None)


def previous(workspace: Workspace, variant: str, round: int) -> ModelVersion | None:
    """Return what the variant's training in `round` continues from: its version of an earlier round, else the seed.

    B-FFT+ branches off B-FFT's (appendix D), and the control with shuffled labels continues from what B-FFT does.
    Versions that learned from what is forgotten are passed over.
    """
    variant, without = original(variant), tainted(workspace).keys()
    off = Variant.B_FFT if variant == Variant.B_FFT_PLUS else SEED
    return (
        latest(workspace, variant, round, without)
        or latest(workspace, off, round, without)
        or latest(workspace, SEED, without=without)
    )


def aliases(workspace: Workspace, model: str) -> dict[str, str]:
    """Version numbers by alias; empty if the model is not registered."""
    found = client(workspace).search_registered_models(f"name='{model}'")
    return {alias: str(number) for alias, number in found[0].aliases.items()} if found else {}


def by_adapter_hash(workspace: Workspace, name: str, adapter_hash: str) -> ModelVersion | None:
    """Return the registered version whose adapter has this hash, which identifies by content the policy that acted."""
    versions = client(workspace).search_model_versions(f"name='{name}'")
    return next((v for v in versions if v.tags.get("adapter_hash") == adapter_hash), None)


def holds(workspace: Workspace, version: RegisteredRef) -> bool:
    """Return whether that version is registered with that adapter."""
    found = client(workspace).search_model_versions(f"name='{version.model}'")
    return (version.version, version.adapter_hash) in {(str(v.version), v.tags.get("adapter_hash")) for v in found}


def named(workspace: Workspace, reference: str) -> ModelVersion:
    """Return the version that 'respect.b-fft/3' names.

    Raises:
        ValueError: the reference is not of that form, or names no registered version.
    """
    name, _, number = reference.rpartition("/")
    try:
        return client(workspace).get_model_version(name, number)
    except MlflowException as error:
        if is_transient(error):
            raise
        raise ValueError(f"{reference!r} is not a registered version, such as 'respect.b-fft/3': {error}") from None


def download(workspace: Workspace, version: ModelVersion, *, check: bool = False) -> Path:
    """Return the version's files on this machine, fetched once, as versions never change.

    Raises:
        AdapterMismatchError: `check`, and the fetched files are not those that were registered.
    """
    target = workspace.scratch / "registry" / version.name / str(version.version)
    if not target.exists():
        # Fetch next to the target and move it there whole: a partial copy is never taken for the model.
        with fetched(workspace, version) as files:
            if check:
                _require(files, version)
            try:
                files.rename(target)
            except OSError:
                if not target.exists():  # else another run was first, with the same files
                    raise
    return target


def adapter(workspace: Workspace, version: ModelVersion, *, fresh: bool = False) -> Path:
    """Return the version's files on this machine, fetched again unless their adapter is the registered one.

    Args:
        fresh: check the registry's own files too, even if the copy is good.

    Raises:
        AdapterMismatchError: the registry's files are not those that were registered.
    """
    if fresh:
        with fetched(workspace, version) as files:
            _require(files, version)
    files = download(workspace, version)
    try:
        _require(files, version)
    except AdapterMismatchError:
        shutil.rmtree(files)
        files = download(workspace, version, check=True)
    return files


def _require(files: Path, version: ModelVersion) -> None:
    from respect_core.model.base import adapter_hash  # torch takes seconds to import; much of the registry does without

    registered = version.tags["adapter_hash"]
    try:
        found = adapter_hash(files, like=registered)
    except FileNotFoundError:
        found = "nothing (there are none)"
    if found != registered:
        raise AdapterMismatchError(f"its files hash to {found}, registered is {registered}")


@contextmanager
def fetched(workspace: Workspace, version: ModelVersion) -> Iterator[Path]:
    """Yield the version's files fresh from the registry, deleted at the end unless they were moved."""
    source, uri = version.source, workspace.tracking
    with passing(workspace.scratch / "registry" / version.name, "fetching-") as scratch:
        yield Path(download_artifacts(artifact_uri=source, dst_path=str(scratch), tracking_uri=uri))


def read_json(workspace: Workspace, run_id: str, name: str) -> Any | None:
    """Return what `log_json` stored with a run, or None if nothing."""
    mlflow = client(workspace)
    if name not in {each.path for each in mlflow.list_artifacts(run_id)}:
        return None
    with TemporaryDirectory() as scratch:
        return json.loads(Path(mlflow.download_artifacts(run_id, name, scratch)).read_text())


def log_json(workspace: Workspace, run_id: str, name: str, value: Any) -> None:
    client(workspace).log_text(run_id, json.dumps(value, indent=2, sort_keys=True, default=str), name)
