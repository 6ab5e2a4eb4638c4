"""The `respect` command: every option explained, and failures told in one message."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from deployments.cli import main
from flows.parameters import RoundParameters
from flows.round import VariantsFailedError
from flows.support.terminal import clear_errors
from respect_core.store.base import StoreError
from respect_core.variants import SYSTEMS, FeedbackSource, Variant
from tasks.compute.process import WorkerFailedError

HEAVY = {
    *("torch", "transformers", "peft", "numpy", "scipy", "pandas", "pyarrow", "prefect", "mlflow", "sqlalchemy"),
    *("fastapi", "uvicorn", "boto3", "httpx", "pydantic_settings", "PIL", "http.client"),
}
"""What a command may need, and its help does not."""
NO_RUN = [
    *(["ui"], ["ledger"], ["lineage", "respect.b-fft/1"], ["promote", "b-fft"], ["rollback", "b-fft"]),
    *(["annotate", "sample", "--round", "0", "--variant", "b-fft"], ["export-released", "out"]),
    *(["round", "--round", "0"], ["evaluate", "validation"], ["search", "--variant", "b-fft"]),
    *(["import", "list"], ["import", "undo", "a"], ["relocate"]),
]
"""Commands that need a run that is there."""
COMMANDS = [
    *(["demo"], ["round"], ["study"], ["study-summary"], ["evaluate"], ["simulate"], ["search"], ["report"], ["ui"]),
    *(["decode"], ["evaluate-decoder"], ["compare"], ["talk"], ["relocate"], ["serve"], ["vllm"], ["play"]),
    *(["promote"], ["rollback"], ["ledger"], ["lineage"], ["gate-power"], ["canary"], ["triggers"], ["quarantine"]),
    *(["approvals"], ["approve"], ["link", "approver"], ["link", "study"]),
    *(["backup"], ["restore"], ["forget"]),
    *(["import", name] for name in ("games", "chats", "list", "undo", "released")),
    *(["annotate", name] for name in ("sample", "queue", "page", "import", "report")),
    ["export-released"],
]


_HELP = f"""
import sys
from contextlib import suppress
from deployments.cli.main import app
for command in [*{COMMANDS}, []]:
    with suppress(SystemExit):
        app([*command, "--help"])
for more in (["--version"], ["no-such-command"], ["round", "--no-such-option"]):
    with suppress(SystemExit):
        app(more)
print(*sorted({HEAVY} & sys.modules.keys()), file=sys.stderr, sep=", ")
"""


def test_help_waits_for_no_library() -> None:
    """A process imports once, so the commands are asked in one."""
    asked = subprocess.run([sys.executable, "-c", _HELP], capture_output=True, text=True, check=True)
    assert asked.stdout.count("Usage: ") >= len(COMMANDS) + 1
    assert asked.stderr.splitlines()[-1] == ""


@pytest.mark.parametrize("command", [[], *COMMANDS])
def test_help_answers(command: list[str]) -> None:
    result = CliRunner().invoke(main.app, [*command, "--help"])
    assert result.exit_code == 0, result.output
    assert "Usage" in result.output


def test_version_answers() -> None:
    result = CliRunner().invoke(main.app, ["--version"])
    assert result.exit_code == 0, result.output
    assert re.fullmatch(r"respect \d+\.\d+\.\d+\n", result.output)


def test_every_command_is_among_them() -> None:
    def commands(parent: Any, *names: str) -> Iterator[list[str]]:
        for name, each in parent.commands.items():
            yield from commands(each, *names, name) if hasattr(each, "commands") else [[*names, name]]

    assert sorted(commands(typer.main.get_command(main.app))) == sorted(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_says_what_it_means(command: list[str]) -> None:
    found: Any = typer.main.get_command(main.app)
    for name in command:
        found = found.commands[name]
    unexplained = [each.name for each in found.params if not getattr(each, "help", None)]
    assert not unexplained


def test_an_unknown_variant_is_refused_with_those_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main.app, ["round", "--round", "0", "--variants", "b-fft,c-fft"])
    assert result.exit_code == 2
    assert "t-kto" in result.output


def test_a_study_of_control_alone_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main.app, ["study", "--variants", "control"])
    assert result.exit_code == 2
    assert "alongside variants that learn" in " ".join(result.output.replace("│", " ").split())
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_no_pickle_ends_in_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "games.pkl").write_bytes(b"not a pickle")
    command = ["import", "games", "games.pkl", "--tangrams", ".", "--round", "5", "--variant", "b-fft"]
    result = CliRunner().invoke(main.app, command)
    assert result.exit_code == 1
    assert result.stderr.startswith("error:") and "games.pkl" in result.stderr
    assert "Traceback" not in result.output and not result.stdout


@pytest.mark.parametrize("command", NO_RUN, ids=" ".join)
def test_a_mistyped_run_is_an_error_that_names_those_there_are(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RESPECT_STORE", raising=False)
    for name in ("main", "demo"):
        (tmp_path / "runs" / name).mkdir(parents=True)
    result = CliRunner().invoke(main.app, [*command, "--run", "nothing"])
    assert result.exit_code == 1
    assert f"error: no run 'nothing' in {tmp_path / 'runs'}; there are: demo, main" in result.stderr
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["demo", "main"]


def test_a_run_whose_data_are_elsewhere_needs_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RESPECT_STORE", str(tmp_path / "shared"))
    assert CliRunner().invoke(main.app, ["ledger"]).exit_code == 0


@pytest.mark.parametrize("name", ["../x", "", "a b", "a/b", "/x", ".", "..", "x" * 65, "-x", "a\nb", "a\n"])
@pytest.mark.parametrize("command", [["demo", "--run"], ["ledger", "--run"], ["report", "--study"], ["study-summary"]])
def test_a_name_that_leads_elsewhere_is_refused(
    command: list[str], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = ["--", name] if command == ["study-summary"] else [f"{command[-1]}={name}"]
    result = CliRunner().invoke(main.app, [*command[:1], *given])
    assert result.exit_code == 1 and result.stderr.startswith("error:") and "cannot name a run" in result.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("command", "option"),
    [
        (["ledger", "--run", "a", "--run", "b"], "--run"),
        (["round", "--round", "1", "--round=2"], "--round"),
        (["promote", "b-fft", "--approve", "--no-approve"], "--approve"),
        (["annotate", "sample", "--round", "0", "--variant", "b-fft", "--variant", "b-kto"], "--variant"),
        (["serve", "--variants", "b-fft", "--variants", "b-kto"], "--variants"),
        (["play", "--port", "1", "--port", "2"], "--port"),
    ],
)
def test_an_option_given_twice_is_an_error(command: list[str], option: str) -> None:
    result = CliRunner().invoke(main.app, command)
    assert result.exit_code == 2
    assert f"{option} is given 2 times and takes one value" in " ".join(result.output.replace("│", " ").split())


def test_variants_may_be_given_in_one_option_or_several() -> None:
    parameters = RoundParameters(round=1, variants=["b-fft", "b-kto,t-rl", "b-fft"])
    assert parameters.variants == [Variant.B_FFT, Variant.B_KTO, Variant.T_RL]
    assert RoundParameters(round=1, variants=["all"]).variants == list(SYSTEMS)
    command: Any = typer.main.get_command(main.app)
    given = ["--round", "1", "--variants", "b-fft", "--variants", "b-kto"]
    assert command.commands["round"].make_context("round", given).params["variants"] == ["b-fft", "b-kto"]


def test_what_to_learn_from_reaches_the_profile() -> None:
    command: Any = typer.main.get_command(main.app)
    given = command.commands["round"].make_context("round", ["--round", "1", "--feedback", "both"]).params["feedback"]
    assert RoundParameters(round=1, feedback=given).resolved_profile().feedback is FeedbackSource.BOTH
    assert RoundParameters(round=1).resolved_profile().feedback is FeedbackSource.DECODED


def test_an_engine_is_chosen_by_name_for_what_it_trains() -> None:
    chosen = RoundParameters(round=1, profile="chat", variants=["b-fft,t-kto"], engine="trl", max_steps=4)
    settings = chosen.resolved_profile().settings("t-kto", 1)
    assert (settings.engine, settings.max_steps) == ("trl", 4)
    assert RoundParameters(round=1).resolved_profile().settings("b-fft", 1).engine == "packed"
    result = CliRunner().invoke(main.app, ["round", "--round", "1", "--engine", "trl", "--variants", "b-fft,b-rl"])
    told = " ".join(result.output.replace("│", " ").split())
    assert result.exit_code == 2 and "no trainer for REINFORCE: choose variants (b-fft)" in told and "'packed'" in told


def test_a_failure_that_explains_itself_has_no_traceback(capfd: pytest.CaptureFixture[str]) -> None:
    for failure in (
        VariantsFailedError("b-kto failed"),
        WorkerFailedError("the worker ended"),
        StoreError("no such bucket"),
    ):
        with pytest.raises(typer.Exit), clear_errors():
            raise failure
        assert capfd.readouterr() == ("", f"error: {failure}\n")


def test_options_are_the_parameters_of_the_flow() -> None:
    """Names, defaults and bounds are declared once, in flows/parameters.py."""
    command: Any = typer.main.get_command(main.app)
    given = {each.name: each for each in command.commands["round"].params}
    fields = RoundParameters.model_fields
    assert set(fields) - {"study_seed"} <= set(given)
    assert given["round"].required and given["validation"].default == "validation"
    few = CliRunner().invoke(main.app, ["round", "--round", "1", "--seeds", "0"])
    assert few.exit_code == 2 and "greater than or equal to 1" in few.output
    assert given["replay"].default == fields["replay"].default


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--games", "20", "--anchor-games", "15"], "anchor_games = 15 must be at least games = 20"),
        (["--variants", "b-fft+"], "b-fft+ branches off b-fft after round 3: study both, over more rounds"),
        (["--variants", "c-fft"], "--variants"),
    ],
)
def test_what_the_parameters_refuse_is_a_mistake_in_the_command(
    arguments: list[str], complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main.app, ["study", *arguments])
    assert result.exit_code == 2
    assert complaint in " ".join(result.output.replace("│", " ").split())
    assert not list(tmp_path.iterdir())
