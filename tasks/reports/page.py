"""A run's report as a Prefect task: written to runs/NAME/report, attached to the MLflow run, linked in Prefect."""

from __future__ import annotations

from pathlib import Path

from prefect import task
from prefect.artifacts import create_link_artifact

from respect_core.log import forgetting
from respect_core.measuring.evidence import gather
from respect_core.measuring.human_eval import build_annotations
from tasks.registry import registry
from tasks.reports import run_facts, study_pairs
from tasks.support.retries import PATIENT
from tasks.support.workspace import Workspace


@task(name="write report", task_run_name="report up to round {up_to}", **PATIENT)
def publish_report(workspace: Workspace, run_id: str, up_to: int, key: str) -> Path:
    """Write the report of everything up to a round; return its page. Doing it again changes nothing.

    Args:
        run_id: the MLflow run that it is attached to, in the folder `report`.
        key: key of the Prefect artifact that links to it.
    """
    from respect_core.reporting.report import PAGE, write  # of an extra, which rounds do not need

    store, out = workspace.open(), workspace.root / "report"

    def publish() -> None:
        build_annotations(store)
        systems = run_facts.systems(workspace.root)
        evidence = gather(store, workspace.root.name, run=workspace.root, systems=systems, up_to=up_to)
        evidence = study_pairs.of_study(evidence, workspace.root, up_to)
        facts, learned = run_facts.facts(workspace.root), run_facts.learned(workspace.root)
        write(evidence, out, store=store, up_to=up_to, facts=facts, learned=learned)
        registry.client(workspace).log_artifacts(run_id, str(out), "report")

    forgetting.settled(store, publish)
    create_link_artifact(_address(workspace, run_id, out / PAGE), link_text=f"Report up to round {up_to}", key=key)
    return out / PAGE


def _address(workspace: Workspace, run_id: str, file: Path) -> str:
    if not workspace.tracking_uri.startswith("http"):
        return file.as_uri()  # a database has no pages
    run = f"#/experiments/{registry.experiment_id(workspace)}/runs/{run_id}"
    return f"{workspace.tracking_uri}/{run}/artifacts/report/{file.name}"
