"""Record a study: what it was started with, and one file per finished round, from which it resumes.

`runs/<name>/study/study.json` and `round-0.json`, `round-1.json`, ... Each is written whole; a round whose file is
there is not played or learned again. `round-0.begun` has a line for each attempt at a round, with the code's version.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from mlflow.exceptions import MlflowException
from pydantic import BaseModel, ConfigDict, TypeAdapter

from respect_core.log.log import LOGS
from respect_core.measuring.metrics import read_counts
from respect_core.model.local import base_sha256
from respect_core.profiles import Profile
from respect_core.versions import code_version
from tasks.registry import registry
from tasks.registry.register import reference
from tasks.support.files import write_whole
from tasks.support.references import PlayedRef, RegisteredRef
from tasks.support.workspace import Workspace


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True)


class Started(_Record):
    """What a study was started with."""

    parameters: dict[str, Any]
    profile: dict[str, Any]
    base: str | None  # sha256 of the base model's files, where it is a directory
    mlflow_run: str

    @property
    def name(self) -> str:
        return str(self.profile["name"])

    def settings(self) -> dict[str, Any]:
        """Everything that defines the study, by name, in one level: parameters, `profile.*` and the base."""
        return {
            **dict(_level("", self.parameters)),
            **dict(_level("profile.", self.profile)),
            "base model's files": self.base,
        }


class Deployed(_Record):
    """One policy in one round.

    `games`: measuring.metrics.COLUMNS of each. `contexts`: id of each game's context; empty for games between people,
    and in records of earlier releases.
    """

    games: list[list[int]]
    contexts: list[str] = []
    version: str | None = None  # e.g. respect.b-fft/3; none for people
    val_exact_match: float | None = None
    illegal_actions: int | None = None  # greedy and unconstrained, on the validation set
    seconds: float | None = None


class StudyRound(_Record):
    """A finished round: who played, what was learned (version by variant), the round's own summary, seconds.

    `attempts`: code version of each attempt at it; empty in records of earlier releases. `seconds`: of the last one.
    """

    round: int
    policies: dict[str, Deployed]
    learned: dict[str, str] = {}
    learning: dict[str, Any] | None = None
    seconds: dict[str, float]
    attempts: list[str] = []

    @property
    def resumed(self) -> bool:
        return len(self.attempts) > 1


def folder(workspace: Workspace) -> Path:
    return workspace.root / "study"


def start_or_resume(workspace: Workspace, parameters: BaseModel, profile: Profile, name: str) -> Started:
    """Start this workspace's study and its MLflow run, or resume the interrupted one.

    Raises:
        ValueError: it was started with other parameters, or the store has games from something else.
    """
    given = Started(
        parameters=parameters.model_dump(mode="json"),
        profile=TypeAdapter(Profile).dump_python(profile, mode="json"),
        base=base_sha256(profile.base),
        mlflow_run="",
    )
    file = folder(workspace) / "study.json"
    if file.exists():
        known = Started.model_validate_json(file.read_bytes())
        for name, before, now in differences(known, given):
            if name not in known.settings():
                raise ValueError(
                    f"the study in {workspace.root} was started by a release that did not have {name}, and its rounds "
                    "were measured in another way; finish it with that release, or start it again with another --run"
                )
            raise ValueError(
                f"the study in {workspace.root} was started with {name} = {before}, now it is {now}; go on with the "
                "same, or give the new study another --run"
            )
        registry.reopen(workspace, known.mlflow_run)
        return known
    if workspace.open().keys(f"{LOGS}/"):
        raise ValueError(
            f"{workspace.store_uri} has interactions that are not this study's, and everybody would learn from them; "
            "give the study a --run of its own (and a RESPECT_STORE of its own where that is set)"
        )
    run_id = registry.start_run(workspace, name, tags={"kind": "study", "profile": profile.name})
    registry.log(workspace, run_id, params=given.parameters)
    started = given.model_copy(update={"mlflow_run": run_id})
    _write(file, started)
    return started


def stop(workspace: Workspace, started: Started, error: BaseException) -> None:
    """End the study's MLflow run until it is resumed: as killed if somebody interrupted it, else as failed."""
    with suppress(MlflowException):  # MLflow itself may be unreachable
        registry.end_run(workspace, started.mlflow_run, registry.status_after(error))


def differences(one: Started, other: Started, ignoring: Collection[str] = ()) -> Iterator[tuple[str, Any, Any]]:
    """Return the settings in which two studies differ: the name, and the value in each."""
    first, second = one.settings(), other.settings()
    for name in dict.fromkeys([*first, *second]):
        if name not in ignoring and first.get(name) != second.get(name):
            yield name, first.get(name), second.get(name)


def finished_rounds(folder: Path) -> list[StudyRound]:
    """Return the finished rounds, in order."""
    files = sorted(folder.glob("round-*.json"), key=lambda file: int(file.stem.removeprefix("round-")))
    return [StudyRound.model_validate_json(file.read_bytes()) for file in files]


def started(folder: Path) -> Started:
    """Return what a study was started with.

    Raises:
        ValueError: no study in that folder.
    """
    file = folder / "study.json"
    if not file.is_file():
        raise ValueError(f"no study in {folder.parent}: {file} is missing; run `respect study --run NAME` first")
    return Started.model_validate_json(file.read_bytes())


def begin_round(workspace: Workspace, round: int) -> list[str]:
    """Record an attempt at a round; return the code versions of all attempts so far, this one last."""
    begun = folder(workspace) / f"round-{round}.begun"
    with begun.open("a") as file:
        file.write(f"{code_version()}\n")
    return begun.read_text().splitlines()


def finish_round(
    workspace: Workspace,
    round: int,
    deployed: Sequence[RegisteredRef],
    played: Sequence[PlayedRef],
    people: str | None,
    learning: dict[str, Any] | None,
    seconds: Mapping[str, float],
    attempts: Sequence[str],
) -> StudyRound:
    """Measure a round's games and write its file, which ends the round.

    Args:
        deployed: the policies.
        played: their games, in one or more batches per policy.
        people: the name under which people played, if they did.
        learning: summary of the `round` flow, if there was one.
        attempts: what `begin_round` returned.
    """
    policies = {}
    for policy in deployed:
        validated = registry.client(workspace).get_run(policy.run_id).data.metrics
        batches = [each for each in played if each.variant == policy.variant]
        games = {context: game for batch in batches for context, game in batch.counts.items()}
        policies[policy.variant] = Deployed(
            games=list(games.values()),
            contexts=list(games),
            version=f"{policy.model}/{policy.version}",
            val_exact_match=validated["val_exact_match"],
            illegal_actions=int(validated["illegal_actions"]),
            seconds=sum(batch.seconds for batch in batches),
        )
    if people:
        policies[people] = Deployed(games=read_counts(workspace.open(), round, people).tolist())
    variants = learning["variants"] if learning else {}
    learned = {name: f"{each['model']}/{each['version']}" for name, each in variants.items()}
    result = StudyRound(
        round=round,
        policies=policies,
        learned=learned,
        learning=learning,
        seconds=dict(seconds),
        attempts=list(attempts),
    )
    _write(folder(workspace) / f"round-{round}.json", result)
    return result


def registered(workspace: Workspace, variant: str, version: str) -> RegisteredRef:
    """Return the version, to be deployed under the name `variant`."""
    return reference(variant, registry.named(workspace, version))


def seconds_left(finished: Sequence[StudyRound], rounds: int) -> float | None:
    """Estimate a study's remaining time, assuming that rounds take as long as those before; None before round 0.

    Round 0, which trains the seed policy and has one policy play instead of all, counts only until there is another.
    """
    if not finished:
        return None
    typical = finished[1:] or finished
    learning = sum(each.seconds["total"] for each in typical) / len(typical)
    play = sum(each.seconds["play"] for each in typical) / len(typical)
    to_come = rounds + 1 - len(finished)
    return max(0, to_come - 1) * learning + (play if to_come else 0.0)


def _level(prefix: str, values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Flatten nested values, joining their names with dots."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _level(f"{prefix}{name}.", value)
        else:
            yield f"{prefix}{name}", value


def _write(file: Path, record: BaseModel) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, record.model_dump_json(indent=1) + "\n")
