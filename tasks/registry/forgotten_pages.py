"""Erase from MLflow what users said: reports, whose pages show games and conversations turn by turn."""

from __future__ import annotations

from collections.abc import Iterator

from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from respect_core.log.forgotten_places import Found, Place
from respect_core.log.tombstones import Forgotten
from tasks.registry import registry
from tasks.support.workspace import Workspace

_FOLDER, _PAGE = "report", "report/index.html"


class ReportPages(Place):
    """Pages of reports attached to runs. `respect report` or the next round makes a page without what is forgotten."""

    name = "MLflow report pages"

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace

    def find(self, forgotten: Forgotten) -> Iterator[Found]:
        if not forgotten.interactions:
            return
        mlflow, token = registry.client(self._workspace), None
        while token != "":
            runs = mlflow.search_runs([registry.experiment_id(self._workspace)], page_token=token)
            for run in runs:
                has_page = "variant" not in run.data.tags and _PAGE in {
                    each.path for each in mlflow.list_artifacts(run.info.run_id, _FOLDER)
                }
                if has_page:
                    yield Found(f"{run.info.run_id}/{_PAGE}", 1)
            token = runs.token or ""

    def erase(self, found: Found, forgotten: Forgotten) -> str | None:  # noqa: ARG002  # of a place
        run = registry.client(self._workspace).get_run(found.key.partition("/")[0])
        files = get_artifact_repository(str(run.info.artifact_uri), tracking_uri=self._workspace.tracking)
        files.delete_artifacts(_PAGE)
        return None
