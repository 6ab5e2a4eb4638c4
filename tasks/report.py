"""The figures of a round: its summary, a Prefect artifact, MLflow files, and a table on the terminal."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefect import task
from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from rich.console import Console
from rich.table import Table

from tasks import registry
from tasks.figures import confusion_figure, success_figure
from tasks.files import write_whole
from tasks.references import ExportedRef, FeedbackRef, LearnedRef, PlayedRef
from tasks.retries import PATIENT
from tasks.workspace import Workspace

Registered = Mapping[str, LearnedRef]


def summarise(
    profile: str,
    exported: ExportedRef,
    feedback: FeedbackRef,
    registered: Registered,
    before: PlayedRef | None,
    after: Mapping[str, PlayedRef | None],
    failed: Mapping[str, str],
    seconds: Mapping[str, float | None],
) -> dict[str, Any]:
    """The summary of a round in its documented shape; what the round did not do is None."""
    return {
        "round": exported.round,
        "profile": profile,
        "games": exported.games,
        "turns": exported.turns,
        "turns_with_followup": exported.turns_with_followup,
        "set_aside": exported.set_aside,
        "decoder": {kind: figures.model_dump(mode="json") for kind, figures in feedback.decoders.items()},
        "variants": {
            variant: {
                "train_turns": each.training_set.train_turns,
                "positives": each.training_set.positives,
                "negatives_used": each.training_set.negatives_used,
                "rehearsal_turns": each.training_set.rehearsal_turns,
                "probabilities": each.training_set.probabilities,
                "data_hash": each.training_set.data_hash,
                "val_exact_match": each.selected.exact_match,
                "val_sampled_match": each.selected.sampled_match,
                "illegal_actions": each.selected.illegal_actions,
                "seed": each.selected.seed,
                "step": each.selected.step,
                "model": each.registered.model,
                "version": each.registered.version,
                "success_before": before.success if before else None,
                "success_after": played.success if (played := after.get(variant)) else None,
                "turns_before": before.turns_per_game if before else None,
                "turns_after": played.turns_per_game if played else None,
                "seconds": each.selected.seconds,
            }
            for variant, each in registered.items()
        },
        "failed": dict(failed),
        "seconds": dict(seconds),
    }


@task(name="report", task_run_name="report round {summary[round]}", **PATIENT, cache_policy=NO_CACHE)
def report_round(workspace: Workspace, run_id: str, summary: dict[str, Any], path: Path | None) -> None:
    """Write the summary whole to `path`, if given, and attach the round's table and figures to Prefect and MLflow."""
    if path is not None:
        write_whole(path, json.dumps(summary, indent=2) + "\n")
    registry.log_json(workspace, run_id, "summary.json", summary)
    mlflow = registry.client(workspace)
    for kind, figures in summary["decoder"].items():
        if figures["confusion"]:
            mlflow.log_figure(run_id, confusion_figure(kind, figures["confusion"]), f"decoder-{kind}.png")
    if any(each["success_after"] is not None for each in summary["variants"].values()):
        mlflow.log_figure(run_id, success_figure(summary["variants"]), "success.png")
    create_table_artifact(
        key=f"round-{summary['round']}",
        table=[{"variant": name, **values} for name, values in summary["variants"].items()],
        description=f"Round {summary['round']}: what each variant learned from, and what came out",
    )
    _link_to_mlflow(workspace, run_id, f"round-{summary['round']}")


def report_decoder(feedback: FeedbackRef) -> None:
    """What the decoders said about a round, and how that fits the targets, as a Prefect artifact."""
    rows = [{"decoder": kind, **figures.model_dump(mode="json")} for kind, figures in feedback.decoders.items()]
    create_table_artifact(
        key=f"decoder-round-{feedback.round}",
        table=[{name: value for name, value in row.items() if not isinstance(value, dict)} for row in rows],
        description=f"Round {feedback.round}: decoded feedback, and precision and recall of positives",
    )


def report_variant(workspace: Workspace, learned: LearnedRef) -> None:
    """A variant's figures and the page of its MLflow run, as Prefect artifacts."""
    variant, round = learned.registered.variant, learned.training_set.round
    create_table_artifact(
        key=f"{variant}-round-{round}",
        table=[
            {
                "version": f"{learned.registered.model}/{learned.registered.version}",
                **learned.training_set.model_dump(include={"train_turns", "positives", "negatives_used"}),
                **learned.selected.model_dump(
                    include={"seed", "step", "exact_match", "sampled_match", "illegal_actions"}
                ),
                "seconds": learned.selected.seconds,
            }
        ],
        description=f"{variant} after round {round}: what it learned from, and the checkpoint chosen",
    )
    _link_to_mlflow(workspace, learned.registered.run_id, f"{variant}-round-{round}")


def _link_to_mlflow(workspace: Workspace, run_id: str, name: str) -> None:
    key = f"mlflow-{name}"
    if workspace.tracking_uri.startswith("http"):
        page = f"{workspace.tracking_uri}/#/experiments/{registry.experiment_id(workspace)}/runs/{run_id}"
        create_link_artifact(page, link_text=f"MLflow run: {name}", key=key)
    else:  # a database has no page of its own; `respect ui` serves one
        create_markdown_artifact(f"MLflow run `{run_id}` of {name} in `{workspace.tracking_uri}`", key=key)


def show(summary: Mapping[str, Any], console: Console) -> None:
    """The round on the terminal."""
    games, turns, follow_ups = summary["games"], summary["turns"], summary["turns_with_followup"]
    console.print(
        f"\nround {summary['round']}, profile {summary['profile']}: {games:,} games, {turns:,} turns, "
        f"{follow_ups:,} with a follow-up, {summary['set_aside']} records set aside"
    )
    decoder = Table(
        *("decoder", "+", "0", "-", "precision", "recall", "out of fold", "turns/s"),
        title="Decoded feedback; precision and recall of positives against the targets",
    )
    for kind, figures in summary["decoder"].items():
        decoder.add_row(
            kind,
            *(str(figures[label]) for label in ("positive", "neutral", "negative")),
            *(_number(figures[name], ".2f") for name in ("precision", "recall")),
            "/".join(_number((figures["cross_validated"] or {}).get(name), ".2f") for name in ("precision", "recall")),
            _number(figures["turns_per_second"], ".1f"),
        )
    console.print(decoder)
    for line in _noticed(summary["decoder"]):
        console.print(line)
    table = Table(
        *("variant", "+", "-", "D0", "match", "illegal", "success", "version", "seconds"),
        title="Turns learned from; exact match and illegal actions in validation; games won before and after",
    )
    for name, values in summary["variants"].items():
        table.add_row(
            name,
            str(values["positives"]),
            str(values["negatives_used"]),
            str(values["rehearsal_turns"]),
            _number(values["val_exact_match"], ".1%"),
            str(values["illegal_actions"]),
            f"{_number(values['success_before'], '.0%')} -> {_number(values['success_after'], '.0%')}",
            values["version"],
            _number(values["seconds"], ".0f"),
        )
    console.print(table)
    for name, reason in summary["failed"].items():
        console.print(f"[bold red]{name} failed:[/] {reason}", highlight=False)


def _noticed(decoder: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What an operator should know of the round's texts; every decoder reads the same."""
    figures = next(iter(decoder.values()), {})
    said = {
        "marked": "turns imitate a prompt (column `marked` of the feedback table), and nobody learns from them",
        "cut": "turns are too long for the decoder, which read their beginning and end",
        "unreadable": "turns have characters that the policies' vocabulary lacks",
    }
    return [f"{figures[name]:,} {text}" for name, text in said.items() if figures.get(name)]


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)  # noqa: RUF001  # a dash, as in the paper's tables
