"""Reports go from MLflow's artifacts, in a folder and on S3; figures and models stay."""

from __future__ import annotations

from pathlib import Path

import pytest
from seaweedfs import S3Server

from respect_core.log.tombstones import Forgotten, Tombstone, Why, now
from tasks.registry import registry
from tasks.registry.forgotten_pages import ReportPages
from tasks.support.workspace import workspace

PAGE = "report/index.html"


@pytest.mark.parametrize("kind", ["directory", "s3"])
def test_pages_of_reports_are_deleted(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = workspace(tmp_path / "run")
    mlflow = registry.client(place)
    if kind == "s3":
        server: S3Server = request.getfixturevalue("s3_server")
        for name, value in {**server.environment, "MLFLOW_S3_ENDPOINT_URL": server.endpoint}.items():
            monkeypatch.setenv(name, value)
        mlflow.create_experiment(place.experiment, artifact_location=f"s3://{server.bucket}/{tmp_path.name}")
    run = registry.start_run(place, "round 0", tags={"round": 0})
    other = registry.start_run(place, "round 1", tags={"round": 1})
    for name in (PAGE, "report/report.json", "summary.json"):
        mlflow.log_text(run, "a zébra", name)
    found = Tombstone(why=Why.USER, user="ann", before=now(), at=now(), interactions=("game-1",))
    pages, forgotten = ReportPages(place), Forgotten.by([found])
    assert not list(pages.find(Forgotten())), "nothing was found of anybody"
    (page,) = pages.find(forgotten)
    assert page.key == f"{run}/{PAGE}" and pages.erase(page, forgotten) is None
    assert not list(pages.find(forgotten))
    left = {each.path for folder in ("", "report") for each in mlflow.list_artifacts(run, folder or None)}
    assert left >= {"summary.json", "report/report.json"} and PAGE not in left and not mlflow.list_artifacts(other)
