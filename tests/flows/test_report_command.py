"""`respect report` on the command line, and the report that flows attach and link."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from reports import deployment
from typer.testing import CliRunner

from deployments.cli.main import app
from respect_core.measuring.human_eval import Answer, append_answers
from tasks.support.workspace import workspace


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of that name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RESPECT_STORE", raising=False)
    deployment(tmp_path / "runs" / "mine" / "store")
    return tmp_path / "runs" / "mine"


def test_a_report_of_a_run_beside_the_published_values(run: Path) -> None:
    done = CliRunner().invoke(app, ["report", "--study", "mine", "--out", "out", "--published"])
    assert done.exit_code == 0, done.output
    assert "14 games of 3 policies: out/index.html" in done.output
    assert "measured cells agree with the published ones" in done.output
    found = list(csv.DictReader(Path("out/published.csv").read_text().splitlines()))
    success = next(row for row in found if (row["table"], row["row"], row["column"]) == ("2", "b-fft", "1"))
    assert (success["published"], success["measured"], success["agrees"]) == ("55.1", "75.0", "False")
    assert "deselect everything" in Path("out/index.html").read_text()


def test_without_games_nothing_that_users_wrote_is_on_the_page(run: Path) -> None:
    done = CliRunner().invoke(app, ["report", "--study", "mine", "--no-games"])
    assert done.exit_code == 0, done.output
    assert "deselect everything" not in (run / "report" / "index.html").read_text()


def test_similarity_of_actions_as_the_frozen_vision_tower_sees_the_images(run: Path) -> None:
    answers = [
        {"interaction_id": "g0", "round": 0, "variant": "seed", "turn": turn, "annotator": "ann"}
        | {"intended": intended, "satisfaction": said}
        for turn, intended, said in ((0, "select A", "no"), (1, "select A", "yes"))
    ]
    append_answers(workspace(run).open(), [Answer(**each) for each in answers], "file")
    done = CliRunner().invoke(app, ["report", "--study", "mine", "--similarity", "vision"])
    assert done.exit_code == 0, done.output
    rows = list(csv.reader((run / "report" / "tables" / "table-5-turns.csv").read_text().splitlines()))
    assert any(row[0].startswith("Sim") and row[1] != "-" for row in rows), rows


def test_a_run_that_is_not_there_is_not_made(run: Path) -> None:
    done = CliRunner().invoke(app, ["report", "--study", "other"])
    assert done.exit_code == 1 and "no run 'other' in" in done.stderr and "there are: mine" in done.stderr
    assert not (run.parent / "other").exists()


def test_a_report_is_attached_to_the_mlflow_run_and_linked_in_prefect(run: Path, prefect_server: None) -> None:
    from prefect.artifacts import Artifact

    from tasks.registry import registry
    from tasks.reports.page import publish_report

    place = workspace(run)
    run_id = registry.start_run(place, "round 1")
    page = publish_report(place, run_id, 1, "report-round-1")
    attached = {each.path for each in registry.client(place).list_artifacts(run_id, "report")}
    assert {"report/index.html", "report/report.json", "report/tables"} <= attached
    linked = Artifact.get("report-round-1")
    assert linked is not None and page.as_uri() in str(linked.data)
