"""Addresses of MLflow's pages that compare runs: what they ask for is what is there."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import parse_qs

import pytest
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE
from mlflow_runs import two_rounds

from respect_core.scenario import PER_TOKEN
from respect_core.variants import Variant
from tasks.registry import mlflow_pages, registry
from tasks.support.workspace import Workspace, workspace


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return workspace(tmp_path_factory.mktemp("pages") / "mine")


@pytest.fixture(scope="module")
def runs(place: Workspace) -> dict[tuple[int, str], str]:
    return two_rounds(place)


def _asked(address: str) -> dict[str, str]:
    return {name: value for name, (value,) in parse_qs(address.partition("?")[2]).items()}


def _found(place: Workspace, address: str) -> list[str]:
    """Names of the runs that the experiment's page shows, in order."""
    asked = _asked(address)
    order = f"{asked['orderByKey']} {'ASC' if asked['orderByAsc'] == 'true' else 'DESC'}"
    found = registry.client(place).search_runs([registry.experiment_id(place)], asked["searchFilter"], order_by=[order])
    return [str(run.info.run_name) for run in found]


def test_the_variants_of_a_round_and_a_variant_over_rounds(place: Workspace, runs: dict[tuple[int, str], str]) -> None:
    pages = mlflow_pages.links(place, 1, {variant: runs[1, variant] for variant in Variant})
    asked = _asked(pages["side_by_side"])
    assert json.loads(asked["runs"]) == [runs[1, variant] for variant in Variant]
    assert json.loads(asked["experiments"]) == [registry.experiment_id(place)]
    best_first = [f"{variant} round 1" for variant in reversed(Variant)]
    assert _found(place, pages["by_exact_match"]) == best_first  # neither the round's run nor those of seeds
    by_token = mlflow_pages.links(place, 1, {}, PER_TOKEN)
    assert "val_sampled_match" in _asked(by_token["by_exact_match"])["orderByKey"]
    assert f"[by {PER_TOKEN}]" in mlflow_pages.sentence(1, by_token)
    for variant, address in pages["over_rounds"].items():
        assert _found(place, address) == [f"{variant} round 1", f"{variant} round 0"]


def test_where_no_server_runs_the_pages_say_what_serves_them(place: Workspace) -> None:
    pages = mlflow_pages.links(place, 0, {"b-fft": "1"})
    assert pages["side_by_side"].startswith("http://127.0.0.1:5000/#/compare-runs?")
    assert mlflow_pages.sentence(0, pages).endswith("They are there while `respect ui --run mine --only mlflow` runs.")


def test_where_a_server_runs_the_pages_are_its_own_and_have_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "experiment_id", lambda _: "7")
    away = Workspace(root=Path("/nowhere"), store_uri="", tracking_uri="https://ann:secret@mlflow.example:8443/base/")
    pages = mlflow_pages.links(away, 0, {"b-fft": "1"})
    assert pages["side_by_side"].startswith("https://mlflow.example:8443/base/#/compare-runs?runs=")
    assert "secret" not in json.dumps(pages) and not pages["where"]


def test_mlflow_opens_on_the_newest_round_unless_somebody_described_the_experiment(
    place: Workspace, runs: dict[tuple[int, str], str]
) -> None:
    mlflow, number = registry.client(place), registry.experiment_id(place)
    for round in (0, 1):
        pages = mlflow_pages.links(place, round, {variant: runs[round, variant] for variant in Variant})
        mlflow_pages.describe(place, runs[round, ""], round, pages)
        note = mlflow.get_experiment(number).tags[MLFLOW_RUN_NOTE]
        assert note == mlflow.get_run(runs[round, ""]).data.tags[MLFLOW_RUN_NOTE]
        assert note.startswith(f"Compare the variants of round {round}: [side by side](#/compare-runs?runs=")
        assert "127.0.0.1" not in note
    mlflow.set_experiment_tag(number, MLFLOW_RUN_NOTE, "Ours.")
    mlflow_pages.describe(place, runs[1, ""], 1, pages)
    assert mlflow.get_experiment(number).tags[MLFLOW_RUN_NOTE] == "Ours."
