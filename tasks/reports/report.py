"""The figures of a round: its summary, a Prefect artifact, MLflow files, and a table on the terminal."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from prefect import task
from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact
from rich.console import Console
from rich.table import Table

from respect_core.errors import MissingExtraError
from respect_core.profiles import Profile
from respect_core.reporting import candidates
from respect_core.scenario import scenario
from respect_core.training_data import quarantine
from tasks.registry import mlflow_pages, registry
from tasks.reports.figures import confusion_figure, success_figure
from tasks.support.files import write_whole
from tasks.support.references import ExportedRef, FeedbackRef, LearnedRef, PlayedRef, PreviewRef
from tasks.support.retries import PATIENT
from tasks.support.workspace import Workspace

Registered = Mapping[str, LearnedRef]


def summarise(
    workspace: Workspace,
    profile: Profile,
    exported: ExportedRef,
    feedback: FeedbackRef,
    registered: Registered,
    gates: Mapping[str, PreviewRef],
    before: PlayedRef | None,
    after: Mapping[str, PlayedRef | None],
    failed: Mapping[str, str],
    seconds: Mapping[str, float | None],
) -> dict[str, Any]:
    """Make the summary of a round in its documented shape; parts that the round did not do are None."""
    return {
        "round": exported.round,
        "scenario": profile.scenario,
        "profile": profile.name,
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
                "by_people": each.training_set.by_people,
                "probabilities": each.training_set.probabilities,
                "left_out": each.training_set.left_out,
                "data_hash": each.training_set.data_hash,
                "val_exact_match": each.selected.exact_match,
                "val_sampled_match": each.selected.sampled_match,
                "val_turns": each.selected.validation_turns,
                "illegal_actions": each.selected.illegal_actions,
                "seed": each.selected.seed,
                "step": each.selected.step,
                "model": each.registered.model,
                "version": each.registered.version,
                "run_id": each.registered.run_id,
                "success_before": before.success if before else None,
                "success_after": played.success if (played := after.get(variant)) else None,
                "played": candidates.replayed(before.counts if before else None, played.counts if played else None),
                "gate": gates[variant].model_dump(mode="json") if variant in gates else None,
                "warnings": each.training_set.warnings,
                **({"guard_rails": each.guard_rails} if each.guard_rails else {}),
                "turns_before": before.turns_per_game if before else None,
                "turns_after": played.turns_per_game if played else None,
                "seconds": each.selected.seconds,
            }
            for variant, each in registered.items()
        },
        "failed": dict(failed),
        "quarantine": [str(each) for each in quarantine.read(workspace.open()) if each.active]
        if profile.limits.quarantine
        else [],
        "mlflow": registered
        and mlflow_pages.links(
            workspace,
            exported.round,
            {variant: each.registered.run_id for variant, each in registered.items()},
            scenario(profile.scenario).criterion,
        ),
        "seconds": dict(seconds),
    }


@task(name="report", task_run_name="report round {summary[round]}", **PATIENT)
def report_round(workspace: Workspace, run_id: str, summary: dict[str, Any], path: Path | None) -> None:
    """Write the summary whole to `path`, if given, and attach the round's table and figures to Prefect and MLflow."""
    if path is not None:
        write_whole(path, json.dumps(summary, indent=2) + "\n")
    registry.log_json(workspace, run_id, "summary.json", summary)
    mlflow = registry.client(workspace)
    with suppress(MissingExtraError):  # a round does not need them
        for kind, figures in summary["decoder"].items():
            if figures["confusion"]:
                mlflow.log_figure(run_id, confusion_figure(kind, figures["confusion"]), f"decoder-{kind}.png")
        if any(each["success_after"] is not None for each in summary["variants"].values()):
            words = candidates.view(summary).words
            mlflow.log_figure(run_id, success_figure(summary["variants"], words), "success.png")
    create_table_artifact(
        key=f"round-{summary['round']}",
        table=[{"variant": name, **values} for name, values in summary["variants"].items()],
        description=f"Round {summary['round']}: what each variant learned from, and what came out",
    )
    _link_to_mlflow(workspace, run_id, f"round-{summary['round']}")
    if pages := summary["mlflow"]:
        number = summary["round"]
        create_markdown_artifact(mlflow_pages.sentence(number, pages), key=f"compare-round-{number}")
        mlflow_pages.describe(workspace, run_id, number, pages)


def report_decoder(feedback: FeedbackRef) -> None:
    """Report what the decoders said about a round, and how it fits the targets, as a Prefect artifact."""
    rows = [{"decoder": kind, **figures.model_dump(mode="json")} for kind, figures in feedback.decoders.items()]
    create_table_artifact(
        key=f"decoder-round-{feedback.round}",
        table=[{name: value for name, value in row.items() if not isinstance(value, dict)} for row in rows],
        description=f"Round {feedback.round}: decoded feedback, and precision and recall of positives",
    )


def report_variant(workspace: Workspace, learned: LearnedRef) -> None:
    """Report a variant's figures and the page of its MLflow run, as Prefect artifacts."""
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
    over = f"[{variant} over rounds]({mlflow_pages.over_rounds(workspace, variant)}). {mlflow_pages.where(workspace)}"
    create_markdown_artifact(over.strip(), key=f"compare-{variant}")


def _link_to_mlflow(workspace: Workspace, run_id: str, name: str) -> None:
    key, page = f"mlflow-{name}", mlflow_pages.run(workspace, run_id)
    if mlflow_pages.served(workspace):
        create_link_artifact(page, link_text=f"MLflow run: {name}", key=key)
    else:
        create_markdown_artifact(f"[MLflow run: {name}]({page}). {mlflow_pages.where(workspace)}", key=key)


def show(summary: Mapping[str, Any], console: Console) -> None:
    """Show the round on the terminal."""
    games, turns, follow_ups = summary["games"], summary["turns"], summary["turns_with_followup"]
    view = candidates.view(summary)
    console.print(
        f"\nround {summary['round']}, profile {summary['profile']}: {games:,} {view.words.interactions}, "
        f"{turns:,} turns, {follow_ups:,} with a follow-up, {summary['set_aside']} records set aside"
    )
    decoder = Table(
        *("decoder", "+", "0", "-", "precision", "recall", "out of fold", "turns/s"),
        title=f"Decoded feedback{_AGAINST if view.words.paper else ''}",
    )
    for kind, figures in summary["decoder"].items():
        decoder.add_row(
            kind,
            *(str(figures[label]) for label in ("positive", "neutral", "negative")),
            *_fit(figures["confusion"]),
            "/".join(_number((figures["cross_validated"] or {}).get(name), ".2f") for name in ("precision", "recall")),
            _number(figures["turns_per_second"], ".1f"),
        )
    console.print(decoder)
    for line in [*_noticed(summary["decoder"]), *_thumbs(summary["decoder"])]:
        console.print(line)
    versions = [each["version"] for each in summary["variants"].values()]
    rows, first = candidates.rows(summary), len(view.validated)
    won = f"{view.words.interactions.capitalize()} {view.words.won} before and after, on the same contexts; what"
    for title, columns, cells in (  # two tables, so that each fits into 80 columns
        (
            f"Turns learned from; {view.criterion or 'exact match and illegal greedy actions'} in validation",
            (*view.validated, "version"),
            [(*row[:first], version) for row, version in zip(rows, versions, strict=True)],
        ),
        (
            f"{won if view.played else 'What'} the gate would say",
            ("variant", *view.judged),
            [(row[0], *row[first:]) for row in rows],
        ),
    ):
        table = Table(*(column.replace(", ", "\n") for column in columns), title=title)
        for row in cells:
            table.add_row(*map(_folded, row))
        console.print(table)
    for sentence in [*candidates.findings(summary), *candidates.remarks(summary)]:
        console.print(f"- {sentence}", highlight=False, markup=False, soft_wrap=True)


_AGAINST = "; precision and recall of positives against the targets"


def _folded(cell: str) -> str:
    """Format a figure above its interval."""
    return cell.replace(" [", "\n[").replace(" too", "\ntoo")


def _fit(confusion: Mapping[str, Mapping[str, int]] | None) -> Iterator[str]:
    """Precision and recall of positives, with intervals over turns."""
    if not confusion:
        yield from (candidates.DASH, candidates.DASH)
        return
    right = confusion["positive"]["positive"]
    for trials in (sum(decoded["positive"] for decoded in confusion.values()), sum(confusion["positive"].values())):
        yield _folded(candidates.shown(candidates.wilson(right, trials), trials))


def show_pages(summary: Mapping[str, Any], console: Console) -> None:
    """Show where MLflow compares what a round trained."""
    if not (pages := summary["mlflow"]):
        return
    variant, over_rounds = next(iter(pages["over_rounds"].items()))
    addresses = {
        f"the variants of round {summary['round']} side by side": pages["side_by_side"],
        f"the same by {pages['criterion']}": pages["by_exact_match"],
        f"{variant} over rounds, and any other by its name": over_rounds,
    }
    console.print(f"\nCompare in MLflow. {pages['where']}".rstrip(), highlight=False, soft_wrap=True)
    for what, address in addresses.items():
        console.print(f"  {what}:\n  {address}", highlight=False, soft_wrap=True, markup=False)


def show_over_rounds(workspace: Workspace, variants: Sequence[str], console: Console) -> None:
    """Show where MLflow has each variant over the rounds of a study."""
    console.print(f"\nOver rounds in MLflow. {mlflow_pages.where(workspace)}".rstrip(), highlight=False, soft_wrap=True)
    for variant in variants:
        address = mlflow_pages.over_rounds(workspace, variant)
        console.print(f"  {variant}:\n  {address}", highlight=False, soft_wrap=True, markup=False)


def _noticed(decoder: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return what an operator should know about the round's texts, which are the same for every decoder."""
    figures = next(iter(decoder.values()), {})
    said = {
        "marked": "turns imitate a prompt (column `marked` of the feedback table), and nobody learns from them",
        "cut": "turns are too long for the decoder, which read their beginning and end",
        "unreadable": "turns have characters that the policies' vocabulary lacks",
    }
    return [f"{figures[name]:,} {text}" for name, text in said.items() if figures.get(name)]


def _thumbs(decoder: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Say how decoded labels compare with users' own thumbs."""
    for kind, figures in decoder.items():
        if thumbs := figures.get("thumbs"):
            precision, recall = (
                f"{each['value']:.0%} [{each['low']:.0%}, {each['high']:.0%}]" if each else candidates.DASH
                for each in (thumbs["precision_negative"], thumbs["recall_negative"])
            )
            yield (
                f"{kind} against {thumbs['turns']:,} users' thumbs, {thumbs['thumbs_down']:,} of them down: "
                f"precision of negatives {precision}, recall {recall}"
            )


def _number(value: float | None, form: str) -> str:
    return candidates.DASH if value is None else format(value, form)
