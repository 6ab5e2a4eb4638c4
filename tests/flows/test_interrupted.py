"""Rounds that somebody stops: in every stage of a demo, again and again, until it is left to finish."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import Command, command, flow_runs, mlflow_runs
from prefect.exceptions import CancelledRun, TerminationSignal

from flows import round as round_module
from tasks.registry.register import close_round, open_round
from tasks.support.references import ExportedRef
from tasks.support.workspace import workspace

# The command itself, on the smallest profile.
_RESPECT = """
import sys
from deployments.cli import main as cli
from flows.support import environment

environment.prepare(cli.RUNS / sys.argv[sys.argv.index("--run") + 1])
from flows import parameters
from small import smallest

parameters.named_profile = smallest
cli.app()
"""
_DEMO = ("demo", "--run", "demo", "--games", "10", "--replay", "0", "--variants", "b-fft")
_STAGES = ["train seed", "play", "decode", "train b-fft", "register"]


def _reached(stage: str, started: Command, run: Path) -> Callable[[], bool]:
    if stage == "register":
        return lambda: any((run / "work").glob("registering-*"))
    kind, _, variant = stage.partition(" ")
    return lambda: any(spec["kind"] == kind and variant in ("", spec["variant"]) for spec in started.workers())


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
def test_a_demo_ends_in_every_stage_and_resumes(tmp_path: Path, first: signal.Signals) -> None:
    """One signal and the other in turn, so that both cases together have both in every stage."""
    run = tmp_path / "runs" / "demo"
    signals = [first, signal.SIGINT if first is signal.SIGTERM else signal.SIGTERM]
    for number, stage in enumerate(_STAGES):
        with command(tmp_path, _RESPECT, *_DEMO) as started:
            started.wait_until(_reached(stage, started, run))
            started.interrupt(signals[number % 2])
        states = {state for each in flow_runs(run).values() for state in each}
        assert states <= {"CRASHED", "COMPLETED"}, (stage, flow_runs(run))
        assert flow_runs(run)["demo"] == ["CRASHED"] * (number + 1), stage
        statuses = {status for each in mlflow_runs(run).values() for status in each}
        assert statuses <= {"KILLED", "FINISHED"}, (stage, mlflow_runs(run))
    assert mlflow_runs(run)["round 0"] == ["KILLED"]

    with command(tmp_path, _RESPECT, *_DEMO) as started:
        started.finish()
    assert flow_runs(run)["demo"][-1] == "COMPLETED"
    assert mlflow_runs(run)["round 0"] == ["FINISHED"], "each attempt continued the run of the one before"
    assert mlflow_runs(run)["b-fft round 0"][-1] == "FINISHED"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (CancelledRun(), "KILLED"),
        (TerminationSignal(signal.SIGTERM), "KILLED"),
        (KeyboardInterrupt(), "KILLED"),
        (SystemExit(143), "KILLED"),
        (ValueError("no set"), "FAILED"),
    ],
    ids=lambda each: type(each).__name__,
)
def test_a_round_that_was_stopped_did_not_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, status: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    exported = ExportedRef(
        round=0, variants=["seed"], games=3, turns=9, turns_with_followup=6, set_aside=0, seconds=1.0
    )
    stages = {"seed_policy": lambda *_: None, "export_interactions": lambda *_: exported, "decode": fail}
    for name, stage in {**stages, "open_round": open_round.fn, "close_round": close_round.fn}.items():
        monkeypatch.setattr(round_module, name, stage)
    with pytest.raises(type(error)):
        round_module.round.fn(workspace(tmp_path), round_module.RoundParameters(round=0))
    assert mlflow_runs(tmp_path) == {"round 0": [status]}
