"""MLflow: a round's runs, and the chosen adapters as registered versions."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from itertools import takewhile
from pathlib import Path
from typing import Any

from mlflow.entities.model_registry import ModelVersion
from prefect import task
from pydantic import TypeAdapter

from respect_core.model.local import base_sha256
from respect_core.profiles import Profile
from respect_core.training_data import curated
from respect_core.variants import SEED, TrainingConfig
from respect_core.versions import json_hash
from tasks.registry import deployed, registry
from tasks.registry.lineage import keep_lineage, prepare_lineage
from tasks.support.files import passing
from tasks.support.references import ExportedRef, RegisteredRef, SelectedRef, TrainingSetRef
from tasks.support.retries import PATIENT
from tasks.support.workspace import Workspace

_CONTENTS = ("base_sha256", "validation_sha256")
"""Tags that versions of earlier releases lack."""


@task(name="open round", **PATIENT)
def open_round(
    workspace: Workspace, round: int, profile: Profile, exported: ExportedRef, study_run: str | None = None
) -> str:
    """Open the parent run of a round, itself a child of its study's run if there is one; return its id.

    If the last attempt was killed or interrupted, its run is continued, and so are the runs of variants below it that
    workers still add to; an open run with other settings is ended as killed.
    """
    name, tags = f"round {round}", {"round": round, "profile": profile.name}
    params = {"profile": profile.name, "base": profile.base, "feedback_decoder": profile.feedback_decoder}
    run_id = None
    attempts = registry.attempts(workspace, name, study_run)
    for run in takewhile(lambda run: run.info.status in ("RUNNING", "KILLED"), attempts):
        if run_id is None and run.data.params.items() <= params.items():  # it may have died before logging them
            run_id = str(run.info.run_id)
            registry.reopen(workspace, run_id)
    for run in attempts:
        if run.info.status == "RUNNING" and run.info.run_id != run_id:
            registry.end_run(workspace, str(run.info.run_id), "KILLED")
    run_id = run_id or registry.start_run(workspace, name, study_run, tags)
    figures = ("games", "turns", "turns_with_followup", "set_aside")
    metrics = [(name, getattr(exported, name), round) for name in figures]
    registry.log(workspace, run_id, params=params, metrics=metrics)
    return run_id


@task(name="close round", **PATIENT)
def close_round(
    workspace: Workspace, run_id: str, failed: Mapping[str, str], status: registry.Status = "FINISHED"
) -> None:
    """End the parent run, and any runs of variants left open below it; `failed` has reasons by variant."""
    registry.log(workspace, run_id, tags={f"failed.{variant}": reason[:400] for variant, reason in failed.items()})
    registry.end_run(workspace, run_id, status)


@task(name="register", task_run_name="register {selected.variant}", **PATIENT)
def register_variant(
    workspace: Workspace,
    parent: str | None,
    profile: Profile,
    training_set: TrainingSetRef,
    selected: SelectedRef,
    validation: str,
    retrained: bool = False,
) -> RegisteredRef:
    """Register the adapter that the game set `validation` chose as `respect.<variant>` with alias candidate.

    An adapter that is already registered, made from the same inputs and chosen by the same games, keeps its version.
    One that was retrained by hand is kept apart from those of rounds, and does not move the alias. What it learned from
    is recorded with it (release.lineage), even if an earlier attempt ended before doing so. A run that a killed
    attempt left open is ended as killed.
    """
    with _bundle(workspace, profile, selected) as directory:
        return _register(workspace, parent, profile, training_set, selected, validation, retrained, directory)


def _register(
    workspace: Workspace,
    parent: str | None,
    profile: Profile,
    training_set: TrainingSetRef,
    selected: SelectedRef,
    validation: str,
    retrained: bool,
    directory: Path,
) -> RegisteredRef:
    from respect_core.model.base import adapter_hash  # torch takes seconds to import; `tasks.study` does without

    variant, round = selected.variant, training_set.round
    identity = {
        "data_hash": training_set.data_hash,
        "adapter_hash": adapter_hash(directory),
        "recipe": recipe(profile, training_set),
        **_base(profile),
        **_chosen_by(workspace, validation),
    }
    for known in registry.versions(workspace, variant):
        # An earlier release's version has a hash of another kind.
        as_known = identity | {"adapter_hash": adapter_hash(directory, like=known.tags["adapter_hash"])}
        if (registry.RETRAINED in known.tags) == retrained and _agrees(workspace, known, as_known):
            keep_lineage(workspace, known)
            registry.finish(workspace, variant, known)  # an attempt may have ended right after making the version
            return reference(variant, known)
    start = registry.previous(workspace, variant, round) if variant != SEED else None
    tags = {
        "round": round,
        "variant": variant,
        "profile": profile.name,
        **identity,
        "parent_version": f"{start.name}/{start.version}" if start else "none",
        "continued": profile.settings(variant, round).from_previous_adapter,
        "seed": selected.seed,
        "step": selected.step,
        **({registry.RETRAINED: True} if retrained else {}),
    }
    name = f"{variant} round {round}"
    for run in registry.left_open(workspace, name, parent):
        # Retrainings with other settings may run in parallel; a round trains a variant once.
        same = not retrained or run.data.tags.get("adapter_hash") == str(tags["adapter_hash"])
        if (registry.RETRAINED in run.data.tags) == retrained and same:
            registry.end_run(workspace, str(run.info.run_id), "KILLED")
    run_id = registry.start_run(workspace, name, parent, tags)
    with registry.ended(workspace, run_id):
        log_training(workspace, run_id, profile, training_set, selected)
        learned = prepare_lineage(workspace, tags, run_id)
        metrics = {"val_exact_match": selected.exact_match, "val_sampled_match": selected.sampled_match}
        (directory / "README.md").write_text(_model_card(profile, training_set, selected, tags))
        version = registry.register_adapter(
            workspace, run_id, variant, directory, tags=tags, metrics=metrics, step=round
        )
        keep_lineage(workspace, version, learned)
    return reference(variant, version)


def register_seed(
    workspace: Workspace, profile: Profile, training_set: TrainingSetRef, selected: SelectedRef, validation: str
) -> RegisteredRef:
    """Register the seed policy, which belongs to no round's run, as the policy that acts before any promotion."""
    registered = register_variant(workspace, None, profile, training_set, selected, validation)
    deployed.pin_seed(workspace, registry.named(workspace, f"{registered.model}/{registered.version}"))
    return registered


def find_seed(
    workspace: Workspace, profile: Profile, training_set: TrainingSetRef, validation: str
) -> RegisteredRef | None:
    """Return the registered seed policy of the same data, base and settings, if there is one.

    A seed policy counts if another game set chose it, or if `validation` did and has not been replaced since. One that
    the seed's ledger does not name does not count: somebody else registered it, or an attempt that ended right then.
    """
    version = registry.latest(workspace, SEED)
    if version is None or not deployed.is_pinned(workspace, version):
        return None
    wanted = {"recipe": recipe(profile, training_set), **_base(profile)}
    if version.tags.get("validation") == validation:
        wanted |= _chosen_by(workspace, validation)
    return reference(SEED, version) if _agrees(workspace, version, wanted) else None


def recipe(profile: Profile, training_set: TrainingSetRef) -> str:
    """Hash of what an adapter is made from: data, the base model's name, adapter placement and training settings."""
    made_from = {
        "data": training_set.data_hash,
        "base": profile.base,
        "lora": asdict(profile.placement(training_set.variant)),
        "training": _settings(profile.settings(training_set.variant, training_set.round)),
        "seeds": profile.seeds,
    }
    return json_hash(made_from)


def _settings(training: TrainingConfig) -> dict[str, Any]:
    """Return settings by name, without the engine where it is the only one that earlier releases had."""
    settings = asdict(training)
    return settings if settings.pop("engine") == "packed" else {**settings, "engine": training.engine}


def _base(profile: Profile) -> dict[str, str]:
    """Return the base model's content hash as a tag; a model of the hub has only its name, which is in the recipe."""
    found = base_sha256(profile.base)
    return {"base_sha256": found} if found else {}


def _chosen_by(workspace: Workspace, validation: str) -> dict[str, str]:
    """Return the game set that chooses a checkpoint, by name and content, as tags."""
    return {"validation": validation, "validation_sha256": curated.stored(workspace.open(), validation).sha256}


def _agrees(workspace: Workspace, version: ModelVersion, wanted: Mapping[str, str]) -> bool:
    """Return whether a version has these tags.

    One that was registered before versions had content tags counts as made from what is there now, and is given those
    tags, so that later changes are noticed.
    """
    lacking = {name: wanted[name] for name in _CONTENTS if name in wanted and name not in version.tags}
    if not wanted.items() - lacking.items() <= version.tags.items():
        return False
    for name, value in lacking.items():
        registry.client(workspace).set_model_version_tag(version.name, version.version, name, value)
    return True


def reference(variant: str, version: ModelVersion) -> RegisteredRef:
    return RegisteredRef(
        variant=variant,
        model=version.name,
        version=str(version.version),
        run_id=str(version.run_id),
        adapter_hash=version.tags["adapter_hash"],
    )


def log_training(
    workspace: Workspace, run_id: str, profile: Profile, training_set: TrainingSetRef, selected: SelectedRef
) -> None:
    """Log settings, data and outcome to a run, and each seed's curves by step to a child run."""
    round, variant = training_set.round, training_set.variant
    config = asdict(profile.settings(variant, round))
    lora = {f"lora_{name}": value for name, value in asdict(profile.placement(variant)).items()}
    counts = ("train_turns", "positives", "negatives", "negatives_used", "rehearsal_turns", "by_people")
    registry.log(
        workspace,
        run_id,
        params={**config, **lora, "seeds": profile.seeds, "precision": _result(selected).get("precision", "unknown")},
        metrics=[
            ("val_exact_match", selected.exact_match, round),
            ("val_sampled_match", selected.sampled_match, round),
            ("illegal_actions", selected.illegal_actions, round),
            ("train_seconds", selected.seconds, round),
            *((name, getattr(training_set, name), round) for name in counts),
        ],
    )
    if (turns := _validated(selected)) is not None:
        found = {"turns": turns, "illegal_actions": selected.illegal_actions}
        registry.log_json(workspace, run_id, registry.VALIDATED, found)
    uri = f"{workspace.store_uri}/training_sets/round={round}/variant={variant}"
    registry.log_dataset(workspace, run_id, f"{variant}-round-{round}", uri, training_set.data_hash)
    for trained in selected.trained:
        child = registry.start_run(
            workspace,
            f"{variant} round {round} seed {trained.seed}",
            run_id,
            {"round": round, "variant": variant, "seed": trained.seed},
        )
        history = [json.loads(line) for line in (trained.directory / "history.jsonl").read_text().splitlines()]
        with registry.ended(workspace, child):
            registry.log(workspace, child, params=config, metrics=_curves(history))


def _validated(selected: SelectedRef) -> list[Any] | None:
    """(interaction id, turn, whether it matched) of the chosen checkpoint; earlier releases did not keep them."""
    (chosen,) = (each for each in _result(selected)["checkpoints"] if each["step"] == selected.step)
    turns: list[Any] | None = chosen.get("right")
    return turns


def _result(selected: SelectedRef) -> dict[str, Any]:
    """Return what the worker said that trained the chosen checkpoint."""
    (folder,) = {each.directory for each in selected.trained if each.seed == selected.seed}
    result: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return result


def _curves(history: list[dict[str, Any]]) -> list[tuple[str, float, int]]:
    """Every number in every line except the step."""
    return [
        (name, value, line["step"])
        for line in history
        for name, value in line.items()
        if name != "step" and isinstance(value, int | float)
    ]


@contextmanager
def _bundle(workspace: Workspace, profile: Profile, selected: SelectedRef) -> Iterator[Path]:
    """Yield a directory with the adapter, its processor and its profile, as plain peft and transformers load them.

    Each registration has its own: a round and a retraining by hand may register the same variant at the same time.
    """
    from respect_core.model.base import adapter_hash  # torch takes seconds to import; `tasks.study` does without

    with passing(workspace.scratch, "registering-") as directory:
        shutil.copytree(selected.adapter, directory, dirs_exist_ok=True)
        if adapter_hash(directory, like=selected.adapter_hash) != selected.adapter_hash:
            raise OSError(f"the adapter in {selected.adapter} changed while it was registered; train it again")
        shutil.copytree(selected.trained[0].directory / "processor", directory, dirs_exist_ok=True)
        (directory / "profile.json").write_bytes(TypeAdapter(Profile).dump_json(profile, indent=2))
        yield directory


def _model_card(profile: Profile, training_set: TrainingSetRef, selected: SelectedRef, tags: Mapping[str, Any]) -> str:
    rows = "\n".join(f"| {name} | {value} |" for name, value in tags.items())
    return f"""# {registry.model_name(selected.variant)}

LoRA adapter over `{profile.base}`, trained after round {training_set.round} on {training_set.positives} turns decoded
as positive, {training_set.negatives_used} as negative and {training_set.rehearsal_turns} rehearsed turns of D0.
People who reviewed follow-ups labelled {training_set.by_people} of these turns.
Exact match on {selected.validation_turns} validation turns: {selected.exact_match:.3f} greedily,
{selected.sampled_match:.3f} in expectation for actions drawn at temperature 1.

Load it with `peft.PeftModel.from_pretrained(AutoModelForImageTextToText.from_pretrained(BASE), THIS_FOLDER)` and
`AutoProcessor.from_pretrained(THIS_FOLDER)`.

| | |
|---|---|
{rows}
"""
