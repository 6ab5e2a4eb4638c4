"""The `respect` command: every option explained, and failures told in one message."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from flows import cli

COMMANDS = [
    *(["demo"], ["round"], ["study"], ["study-summary"], ["evaluate"], ["import", "games"], ["ui"]),
    *(["promote"], ["rollback"], ["ledger"], ["lineage"]),
    *(["import", "released"], ["export-released"], ["annotate", "sample"], ["annotate", "import"]),
]


@pytest.mark.parametrize("command", [[], *COMMANDS])
def test_help_answers(command: list[str]) -> None:
    result = CliRunner().invoke(cli.app, [*command, "--help"])
    assert result.exit_code == 0, result.output
    assert "Usage" in result.output


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_says_what_it_means(command: list[str]) -> None:
    found: Any = typer.main.get_command(cli.app)
    for name in command:
        found = found.commands[name]
    unexplained = [each.name for each in found.params if not getattr(each, "help", None)]
    assert not unexplained


def test_an_unknown_variant_is_refused_with_those_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(cli.app, ["round", "--round", "0", "--variants", "b-fft,c-fft"])
    assert result.exit_code == 2
    assert "t-kto" in result.output


def test_a_study_of_control_alone_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(cli.app, ["study", "--variants", "control"])
    assert result.exit_code == 2
    assert "beside variants that learn" in " ".join(result.output.replace("│", " ").split())
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_no_pickle_ends_in_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "games.pkl").write_bytes(b"not a pickle")
    command = ["import", "games", "games.pkl", "--tangrams", ".", "--round", "5", "--variant", "b-fft"]
    result = CliRunner().invoke(cli.app, command)
    assert result.exit_code == 1
    assert "error:" in result.output and "games.pkl" in result.output
    assert "Traceback" not in result.output
