"""Report one study or several: summary.json, tables 2 to 4, figure 4, MLflow, Prefect, terminal."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from prefect import task
from prefect.artifacts import create_markdown_artifact
from rich.console import Console
from rich.table import Table

from respect_core.measuring.cell import PolicyRound
from respect_core.measuring.evidence import Cells, Comparison, rounds_of, shared_round_0
from respect_core.measuring.judge import words
from respect_core.measuring.metrics import Counts, Estimate, Figures, figures
from respect_core.reporting import tables as result_tables
from respect_core.reporting.figures.curves import figure_4
from respect_core.reporting.figures.style import save
from respect_core.reporting.page_tables import comparisons, points
from respect_core.reporting.tables import TABLES, grid
from respect_core.variants import SEED
from tasks.registry import registry
from tasks.reports import study_pairs, study_record
from tasks.reports.study_record import Deployed, Started, StudyRound
from tasks.support.files import write_whole
from tasks.support.retries import PATIENT
from tasks.support.workspace import Workspace

Studies = Sequence[Sequence[StudyRound]]
"""The finished rounds of each study."""


@task(name="report study", **PATIENT)
def report_study(
    workspace: Workspace, started: Started, finished: Sequence[StudyRound], *, ended: bool = False
) -> dict[str, Any]:
    """Write and publish what the finished rounds show; return the summary. Doing it again changes nothing."""
    measured = results([started], [finished])
    compared = list(study_pairs.comparisons([finished]))
    summary = summarise([started], [finished], measured, compared)
    files = write(
        workspace.root, summary, measured, compared, f"profile {started.name}, study seed {summary['study_seed']}"
    )
    _log_curves(workspace, started.mlflow_run, finished, measured)
    for file in files:
        registry.client(workspace).log_artifact(started.mlflow_run, str(file))
    called = words(summary["scenario"])
    tables = [*(grid(table, measured, called).plain().markdown() for table in TABLES), *_paired(compared)]
    create_markdown_artifact("\n".join(tables), key="study", description="Tables 2 to 4 of the paper for this study")
    if ended:
        registry.end_run(workspace, started.mlflow_run)
    return summary


def combine(runs: Sequence[Path], root: Path) -> dict[str, Any]:
    """Write means over finished studies to `root`; return the summary.

    Raises:
        ValueError: a run is not a study, is not finished, or differs from the first in more than its seed; or two have
            the same seed.
    """
    starts = [study_record.started(run / "study") for run in runs]
    studies = [study_record.finished_rounds(run / "study") for run in runs]
    for run, started, finished in zip(runs, starts, studies, strict=True):
        if len(finished) <= started.parameters["rounds"]:
            raise ValueError(f"{run} has finished {len(finished)} of its rounds; run its command again to go on")
        for name, first, other in study_record.differences(
            starts[0], started, ignoring=("study_seed", "profile.seeds")
        ):
            raise ValueError(
                f"{run} and {runs[0]} differ in {name}, {other} and {first}: their means would mean nothing"
            )
    seeds = [started.parameters["study_seed"] for started in starts]
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"study seeds {seeds}: each study must have a seed of its own to count as a repetition")
    measured = results(starts, studies)
    compared = list(study_pairs.comparisons(studies))
    summary = summarise(starts, studies, measured, compared)
    root.mkdir(parents=True, exist_ok=True)
    write(
        root, summary, measured, compared, f"profile {starts[0].name}, mean of study seeds {', '.join(map(str, seeds))}"
    )
    return summary


def results(starts: Sequence[Started], studies: Studies) -> Cells:
    """Cells by policy and round, with figures only; for several studies, their means."""
    counted: dict[str, dict[int, list[Counts]]] = defaultdict(lambda: defaultdict(list))
    for finished in studies:
        for each in finished:
            for policy, deployed in each.policies.items():
                counted[policy][each.round].append(np.array(deployed.games))
    measured = {policy: {n: PolicyRound(figures(games)) for n, games in by.items()} for policy, by in counted.items()}
    return shared_round_0(measured, starts[0].parameters["variants"])


def summarise(
    starts: Sequence[Started], studies: Studies, measured: Cells, compared: Sequence[Comparison]
) -> dict[str, Any]:
    """Make the summary in its documented shape. For several studies it has means, and `study_seed` is a list.

    `code_versions` are those of all attempts at a round, or None if its record does not have them.
    """
    seeds = [started.parameters["study_seed"] for started in starts]
    rounds = [each for finished in studies for each in finished]
    scenario = str(starts[0].profile["scenario"])
    pairs = {(each.policy, each.round): _pair(each) for each in compared}
    versions = [version for each in rounds for version in (each.attempts or (None,))]
    return {
        "profile": starts[0].name,
        "scenario": scenario,
        "study_seed": seeds[0] if len(seeds) == 1 else seeds,
        "parameters": {name: value for name, value in starts[0].parameters.items() if name != "study_seed"},
        "rounds": [
            {
                "round": number,
                "policies": {
                    policy: _policy(measured_here, _deployed(studies, policy, number), accuracy_of(scenario))
                    | {"paired": pairs.get((policy, number))}
                    for policy, by_round in measured.items()
                    if number in by_round and (measured_here := by_round[number].figures)
                },
                **_learning([each for each in rounds if each.round == number]),
            }
            for number in rounds_of(measured)
        ],
        "seconds": _mean([pd.DataFrame([each.seconds for each in finished]).sum().to_dict() for finished in studies]),
        "resumed": any(each.resumed for each in rounds),
        "code_versions": list(dict.fromkeys(versions)),
    }


def write(
    root: Path, summary: Mapping[str, Any], measured: Cells, compared: Sequence[Comparison], title: str
) -> list[Path]:
    """Write summary.json, a CSV and a Markdown file for each table, pairs.md, figure 4 as SVG and PNG; return them."""
    write_whole(root / "summary.json", json.dumps(summary, indent=2) + "\n")
    pairs = root / "pairs.md"
    for text in _paired(compared):
        write_whole(pairs, text)
    called = words(summary["scenario"])
    tables = result_tables.write([grid(table, measured, called) for table in TABLES], root)
    drawn = figure_4(measured, title=title, words=called)
    return [
        root / "summary.json",
        *tables,
        *([pairs] if compared else []),
        *(save(drawn, root / "figure-4") if drawn else []),
    ]


def show(summary: Mapping[str, Any], console: Console) -> None:
    """Show the study on the terminal."""
    called, accuracy = words(summary["scenario"]), accuracy_of(summary["scenario"])
    table = Table(
        *("round", "policy", called.interactions, "success", f"points, same {called.interactions}", "turns"),
        *(called.accuracy, "match", "illegal"),
        title=f"{called.interactions.capitalize()} {called.won}, turns of each, {called.accuracy}; exact match and "
        "illegal actions on the validation set",
    )
    for each in summary["rounds"]:
        for policy, values in each["policies"].items():
            low, high = values["ci95"]
            table.add_row(
                *(str(each["round"]), policy, str(values["games"])),
                f"{values['success']:.1%} [{low:.0%}, {high:.0%}]",
                _difference(values["paired"]),
                f"{values['turns_per_game']:.2f}",
                *(_shown(values[name], ".1%") for name in (accuracy, "val_exact_match")),
                _shown(values["illegal_actions"], ".0f"),
            )
        table.add_section()
    console.print(table)
    precision = [
        _shown((each["decoder"] or {}).get("binary", {}).get("precision"), ".2f") for each in summary["rounds"]
    ]
    console.print(f"precision of decoded positives by round: {', '.join(precision)}", highlight=False)
    if len(summary["code_versions"]) > 1:
        versions = ", ".join(version or "unknown" for version in summary["code_versions"])
        console.print(f"[yellow]made by different versions of the code: {versions}[/]", highlight=False)


def accuracy_of(scenario: str) -> str:
    """Return the name of a scenario's accuracy of actions in a summary, such as click_accuracy."""
    return words(scenario).accuracy.replace(" ", "_")


def _policy(measured: Figures, deployed: Sequence[Deployed], accuracy: str) -> dict[str, Any]:
    success, turns, clicks = measured.success, measured.turns_per_game, measured.click_accuracy
    values = {
        "games": measured.games,
        "success": success.value,
        "ci95": [success.low, success.high],
        "turns_per_game": turns.value,
        "turns_ci95": [turns.low, turns.high],
        accuracy: clicks.value if clicks else None,
        f"{accuracy}_ci95": [clicks.low, clicks.high] if clicks else None,
        **_mean([each.model_dump(include={"illegal_actions", "val_exact_match", "seconds"}) for each in deployed]),
    }
    return values | ({"version": deployed[0].version} if len(deployed) == 1 else {})


def _pair(compared: Comparison) -> dict[str, Any]:
    """Return a difference on the same contexts with the same speakers, for the summary."""
    success, turns = compared.result.success, compared.result.turns_per_game
    return {
        "over": compared.other,
        "contexts": compared.result.contexts,
        "success": success.value,
        "ci95": [success.low, success.high],
        "turns_per_game": turns.value,
        "turns_ci95": [turns.low, turns.high],
        "p": compared.result.p,
    }


def _paired(compared: Sequence[Comparison]) -> list[str]:
    """Return the table of pairs in Markdown; empty without pairs."""
    table = comparisons(compared)
    return [table.markdown()] if table else []


def _difference(pair: Mapping[str, Any] | None) -> str:
    if pair is None:
        return result_tables.DASH
    return f"{points(Estimate(pair['success'], *pair['ci95']))} over {pair['over']}"


def _deployed(studies: Studies, policy: str, number: int) -> list[Deployed]:
    """Return a policy's deployment in each study; in round 0, the seed policy's counts for all."""
    rounds = [each for finished in studies for each in finished if each.round == number]
    return [found for each in rounds if (found := each.policies.get(policy) or each.policies.get(SEED))]


def _learning(rounds: Sequence[StudyRound]) -> dict[str, Any]:
    """Return decoder, what each variant learned from, and seconds of one round; None where nothing was learned."""
    summaries = [each.learning for each in rounds if each.learning]
    variants = [summary["variants"] for summary in summaries]
    kept = ("train_turns", "positives", "negatives_used", "rehearsal_turns", "val_exact_match", "illegal_actions")
    return {
        "decoder": _mean([summary["decoder"] for summary in summaries]) if summaries else None,
        "learned": _mean([{v: {key: each[v][key] for key in kept} for v in each} for each in variants]) or None,
        "seconds": _mean([each.seconds for each in rounds]),
        "resumed": any(each.resumed for each in rounds),
    }


def _mean(values: Sequence[Any]) -> Any:
    """Average numbers, also inside dictionaries of the same keys; keep other values if all agree."""
    if not values:
        return {}
    first = values[0]
    if len(values) == 1:
        return first
    if all(isinstance(each, Mapping) for each in values):
        return {key: _mean([each.get(key) for each in values]) for key in first}
    numbers = [each for each in values if isinstance(each, int | float)]
    if len(numbers) == len(values):
        return sum(numbers) / len(numbers)
    return first if all(each == first for each in values) else None


def _log_curves(workspace: Workspace, study_run: str, finished: Sequence[StudyRound], measured: Cells) -> None:
    """Log a run per policy under the study's, with a point per round, so that MLflow's comparison draws the curves."""
    for policy, by_round in measured.items():
        with registry.ended(workspace, registry.child_run(workspace, study_run, policy)) as run_id:
            known = registry.logged_steps(workspace, run_id, "success")
            metrics = [
                (metric, estimate.value, number)
                for number, cell in by_round.items()
                if number not in known
                for metric in ("success", "turns_per_game", "click_accuracy")
                if (estimate := getattr(cell.figures, metric)) is not None
            ]
            registry.log(workspace, run_id, metrics=metrics)
    known = registry.logged_steps(workspace, study_run, "decoder.binary.positive")
    points = [
        (f"decoder.{kind}.{name}", values[name], each.round)
        for each in finished
        if each.learning and each.round not in known
        for kind, values in each.learning["decoder"].items()
        for name in ("precision", "recall", "positive")
        if values[name] is not None
    ]
    registry.log(workspace, study_run, metrics=points)


def _shown(value: float | None, form: str) -> str:
    return result_tables.DASH if value is None else format(value, form)
