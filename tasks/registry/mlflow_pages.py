"""Addresses of MLflow's own pages: a run, the runs of a round compared, one variant over rounds.

The experiment page opens on folded parent runs; these pages open on what somebody comparing variants looks for. The
addresses are those of MLflow 3.17: compare-runs takes lists of run and experiment ids, the experiment page a filter, a
sort order and a view. A filter, or sorting by anything but time, unfolds nested runs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlsplit

from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE

from respect_core.scenario import EXACT_MATCH
from tasks.registry import registry
from tasks.support.workspace import Workspace

UI = "http://127.0.0.1:5000"
"""Where `respect ui` serves MLflow by default."""
VARIANT_RUNS = "metrics.val_exact_match >= 0"
"""Filter that only runs of variants pass, not those of rounds or seeds."""


def served(workspace: Workspace) -> bool:
    """Return whether MLflow is a running server, which has pages; a database has none."""
    return workspace.tracking_uri.startswith("http")


def where(workspace: Workspace) -> str:
    """Return what a reader must do before the addresses work; empty if a server is running anyway."""
    command = f"respect ui --run {workspace.root.name} --only mlflow"
    return "" if served(workspace) else f"They are there while `{command}` runs."


def run(workspace: Workspace, run_id: str) -> str:
    """Return a run's page."""
    return _page(workspace, f"experiments/{registry.experiment_id(workspace)}/runs/{run_id}")


def side_by_side(workspace: Workspace, runs: Sequence[str]) -> str:
    """Return the page that compares runs: parameters, metrics, and plots over them."""
    ids = {"runs": [*runs], "experiments": [registry.experiment_id(workspace)]}
    asked = {name: json.dumps(value, separators=(",", ":")) for name, value in ids.items()}
    return _page(workspace, "compare-runs", asked)


def of_round(workspace: Workspace, round: int, criterion: str = EXACT_MATCH) -> str:
    """Return the experiment's charts of one round's variants only, unfolded, the best by the criterion first."""
    metric = "val_exact_match" if criterion == EXACT_MATCH else "val_sampled_match"
    return _filtered(workspace, f"{VARIANT_RUNS} and tags.round = '{round}'", f"metrics.`{metric}`")


def over_rounds(workspace: Workspace, variant: str) -> str:
    """Return the experiment's charts of one variant, one run per round."""
    return _filtered(workspace, f"{VARIANT_RUNS} and tags.variant = '{variant}'", "tags.`round`")


def links(workspace: Workspace, round: int, runs: Mapping[str, str], criterion: str = EXACT_MATCH) -> dict[str, Any]:
    """Return the pages of a round, for its summary.

    Args:
        runs: run ids by variant.
        criterion: the scenario's, by which the variants are ordered.
    """
    return {
        "side_by_side": side_by_side(workspace, [*runs.values()]),
        "by_exact_match": of_round(workspace, round, criterion),
        "criterion": criterion,
        "over_rounds": {variant: over_rounds(workspace, variant) for variant in runs},
        "where": where(workspace),
    }


def sentence(round: int, pages: Mapping[str, Any], *, inside: bool = False) -> str:
    """Return the pages in Markdown.

    Args:
        pages: what `links` returned.
        inside: whether it is for a page of MLflow itself, whatever its address.
    """

    def link(text: str, address: str) -> str:
        return f"[{text}](#{address.partition('#')[2]})" if inside else f"[{text}]({address})"

    rounds = ", ".join(link(variant, address) for variant, address in pages["over_rounds"].items())
    beside, best = (
        link("side by side", pages["side_by_side"]),
        link(f"by {pages['criterion']}", pages["by_exact_match"]),
    )
    return f"{_ABOUT} {round}: {beside}, {best}; over rounds: {rounds}. {'' if inside else pages['where']}".strip()


def describe(workspace: Workspace, run_id: str, round: int, pages: Mapping[str, Any]) -> None:
    """Link the pages where MLflow opens: on the round's run, and on the experiment unless somebody described it."""
    mlflow, text = registry.client(workspace), sentence(round, pages, inside=True)
    mlflow.set_tag(run_id, MLFLOW_RUN_NOTE, text)
    experiment = mlflow.get_experiment(registry.experiment_id(workspace))
    if experiment.tags.get(MLFLOW_RUN_NOTE, _ABOUT).startswith(_ABOUT):
        mlflow.set_experiment_tag(experiment.experiment_id, MLFLOW_RUN_NOTE, text)


_ABOUT = "Compare the variants of round"


def _filtered(workspace: Workspace, wanted: str, order: str) -> str:
    asked = {"searchFilter": wanted, "orderByKey": order, "orderByAsc": "false", "startTime": "ALL"}
    asked |= {"lifecycleFilter": "Active", "compareRunsMode": "CHART"}
    return _page(workspace, f"experiments/{registry.experiment_id(workspace)}/runs", asked)


def _page(workspace: Workspace, path: str, asked: Mapping[str, str] = {}) -> str:  # read only
    base = UI
    if served(workspace):
        address = urlsplit(workspace.tracking_uri)  # no password here: users sign in in the browser
        base = address._replace(netloc=address.netloc.rpartition("@")[2]).geturl().rstrip("/")
    given = "&".join(f"{name}={quote(value, safe='')}" for name, value in asked.items())
    return f"{base}/#/{path}{'?' + given if given else ''}"
