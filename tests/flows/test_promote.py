"""Promotion with the embedded model, a real Prefect server and MLflow on SQLite: gate, ledger, alias, lineage.

One round of one variant makes the versions; each test promotes copies of its adapter under a name of its own.
"""

from __future__ import annotations

import contextvars
import re
import shutil
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import torch
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType
from prefect.client.schemas.objects import StateType
from prefect.flow_runs import resume_flow_run
from safetensors.torch import load_file, save_file
from small import smallest
from typer.testing import CliRunner

from flows import cli
from flows import promote as promote_module
from flows import round as round_module
from flows.demo import demo
from flows.promote import PromoteParameters, RollbackParameters, promote, rollback
from respect_core import ledger, lineage, tables
from respect_core.base import adapter_hash
from respect_core.ledger import LedgerError
from respect_core.variants import Profile, Variant
from tasks import deployed as deployment
from tasks import registry
from tasks.promote import PromotionRef
from tasks.workspace import Workspace, workspace

pytestmark = pytest.mark.timeout(1200)  # the round itself is in the set-up of the first test

Change = Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, prefect_server: None) -> Workspace:
    """A round in which b-fft learned from ten games; twelve games validate."""

    def profile(name: str) -> Profile:
        return replace(smallest(name), validation_games=12)

    made = workspace(tmp_path_factory.mktemp("promotion") / "runs" / "main")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(round_module, "named_profile", profile)
        demo(made, profile="tiny", games=10, replay=0, variants=[Variant.B_FFT])
    return made


def _copy(place: Workspace, variant: Variant, scratch: Path, change: Change | None = None, **tags: str) -> str:
    """Register the adapter of b-fft as the next version of `variant`, its weights changed if need be."""
    source = registry.latest(place, "b-fft")
    assert source is not None
    directory = scratch / f"copy-{variant}"
    shutil.rmtree(directory, ignore_errors=True)
    shutil.copytree(registry.download(place, source), directory)
    if change:
        file = directory / "adapter_model.safetensors"
        save_file(change(load_file(file)), file, metadata={"format": "pt"})
    tags = {**source.tags, "adapter_hash": adapter_hash(directory), **tags}
    version = registry.register_adapter(place, source.run_id, variant, directory, tags=tags, metrics={}, step=0)
    return f"{version.name}/{version.version}"


def _promote(place: Workspace, variant: Variant, **parameters: Any) -> PromotionRef:
    """Against the seed policy with any exact match; ten users cannot each stay under the usual share."""
    result: PromotionRef = promote(
        place, PromoteParameters(**{"variant": variant, "user_share_cap": 1.0, "margin": 1.0, **parameters})
    )
    return result


def _noise(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(value.shape, generator=generator) for name, value in weights.items()}


def _not_a_number(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value * torch.nan for name, value in weights.items()}


def _is_deployed(place: Workspace, variant: Variant, version: str) -> bool:
    """Whether ledger, alias and resolution agree on the version."""
    model, store = registry.model_name(variant), place.open()
    last = ledger.last(store, model)
    alias = registry.aliases(place, model).get(registry.DEPLOYED)
    found = deployment.deployed(place, variant)
    assert last is None or found.tags["adapter_hash"] == last.adapter_hash
    by_alias = f"{model}/{alias}" if alias else "respect.seed/1"
    return (last.to_version if last else "respect.seed/1") == by_alias == f"{found.name}/{found.version}" == version


def test_promote_rollback_promote(place: Workspace, tmp_path: Path) -> None:
    variant = Variant.T_RL
    assert _is_deployed(place, variant, "respect.seed/1")
    first = _copy(place, variant, tmp_path)
    result = _promote(place, variant, actor="ann", reason="first")
    assert (result.decision, result.version, result.entry) == ("promoted", first, 1)
    assert _is_deployed(place, variant, first)

    second = _copy(place, variant, tmp_path)
    result = _promote(place, variant, margin=None)  # the same weights: not below at the usual margin
    assert (result.decision, result.figures["difference"]) == ("promoted", 0.0)
    assert _is_deployed(place, variant, second)
    assert _promote(place, variant).decision == "already deployed"

    for back in (first, "respect.seed/1"):
        parameters = RollbackParameters(variant=variant, reason="worse", actor="bob")
        assert rollback(place, parameters).decision == "rolled back"
        assert _is_deployed(place, variant, back)
    with pytest.raises(LedgerError, match="no promotion to roll back"):
        rollback(place, RollbackParameters(variant=variant))

    assert _promote(place, variant, version=1).decision == "promoted"
    assert _is_deployed(place, variant, first)
    entries = ledger.entries(place.open(), "respect.t-rl")
    assert [(each.action, each.from_version, each.to_version) for each in entries] == [
        ("promote", "respect.seed/1", first),
        ("promote", first, second),
        ("rollback", second, first),
        ("rollback", first, "respect.seed/1"),
        ("promote", "respect.seed/1", first),
    ]
    assert (entries[0].actor, entries[0].reason, entries[2].actor, entries[2].reason) == (
        "ann",
        "first",
        "bob",
        "worse",
    )
    evidence = entries[0].evidence
    assert evidence["verdict"] == "promotion" and evidence["gate"]["margin"] == 1.0
    assert evidence["figures"]["validation_games"] == 12 and len(evidence["validation"]["sha256"]) == 64


@pytest.mark.parametrize(
    ("change", "tags", "reason"),
    [
        (_noise, {}, r"exact match 0\.0% .* below the margin"),
        (_not_a_number, {}, "probabilities that are not numbers"),
        (lambda weights: {}, {}, "its worker|ended with exit code 1"),
        (None, {"adapter_hash": "0" * 64}, "its files hash to .* registered is 0000"),
        (None, {"data_hash": "0" * 64}, "its training set .* is another by now"),
    ],
    ids=["noise", "not a number", "no weights", "other files", "unknown data"],
)
def test_a_poisoned_candidate_is_refused(
    place: Workspace, tmp_path: Path, change: Change | None, tags: dict[str, str], reason: str
) -> None:
    version = _copy(place, Variant.B_KTO, tmp_path, change, **tags)
    result = _promote(place, Variant.B_KTO, margin=0.01)
    assert result.decision == "no promotion"
    assert any(re.search(reason, sentence) for sentence in result.reasons), result.reasons
    assert _is_deployed(place, Variant.B_KTO, "respect.seed/1")
    assert registry.named(place, version).tags["gate"] == "no promotion"


def test_a_candidate_that_learned_from_one_user_too_much_is_refused(place: Workspace) -> None:
    result = _promote(place, Variant.B_FFT, user_share_cap=0.05)
    assert result.decision == "no promotion"
    (reason,) = result.reasons
    assert "over the cap of 5.0%" in reason and str(result.figures["user"]) in reason
    assert _is_deployed(place, Variant.B_FFT, "respect.seed/1")


def test_of_two_promotions_at_once_one_wins(place: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rival goes through while the other's verdict is out: that verdict compared to what is not deployed."""
    variant, report = Variant.B_RL, promote_module.report_gate
    first, second = _copy(place, variant, tmp_path), _copy(place, variant, tmp_path)

    def overtaken(*arguments: Any) -> None:
        monkeypatch.setattr(promote_module, "report_gate", report)
        assert _promote(place, variant, version=1, actor="rival").decision == "promoted"

    monkeypatch.setattr(promote_module, "report_gate", overtaken)
    with pytest.raises(LedgerError, match=rf"rival was first: entry 1 \(promote to {first}\)"):
        _promote(place, variant, version=2)
    assert _is_deployed(place, variant, first)
    assert _promote(place, variant, version=2).decision == "promoted"
    assert _is_deployed(place, variant, second)


def test_killed_between_ledger_and_alias_the_next_operation_settles(
    place: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    variant, model = Variant.T_FFT, "respect.t-fft"
    first = _copy(place, variant, tmp_path)

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(promote_module, "commit", lambda *given: committed.append(given))
        committed: list[Any] = []
        _promote(place, variant)
    with monkeypatch.context() as patch:
        patch.setattr(deployment, "_point_deployed", killed)
        with pytest.raises(KeyboardInterrupt):
            promote_module.commit.fn(*committed[0])
    assert registry.DEPLOYED not in registry.aliases(place, model)
    assert deployment.deployed(place, variant).version == first.rpartition("/")[2]
    assert _is_deployed(place, variant, first)

    _copy(place, variant, tmp_path)
    registry.client(place).set_registered_model_alias(model, registry.DEPLOYED, "2")  # by hand, past the ledger
    assert rollback(place, RollbackParameters(variant=variant)).version == "respect.seed/1"
    assert _is_deployed(place, variant, "respect.seed/1")


def test_a_promotion_waits_for_a_person_where_that_is_asked(place: Workspace, tmp_path: Path) -> None:
    variant = Variant.T_KTO
    version = _copy(place, variant, tmp_path)
    with ThreadPoolExecutor(1) as pool:
        for approve in (False, True):
            run = pool.submit(contextvars.copy_context().run, _promote, place, variant, approve=True, actor="ann")
            answer = {"approve": approve, "name": "bob", "note": "looked at it"}
            resume_flow_run(_paused(run), run_input=answer)
            result = run.result()
            if not approve:
                assert result.decision == "no promotion"
                assert result.reasons == ["bob did not approve: looked at it"]
                assert _is_deployed(place, variant, "respect.seed/1")
    assert result.decision == "promoted" and _is_deployed(place, variant, version)
    entry = ledger.last(place.open(), "respect.t-kto")
    assert entry is not None and (entry.actor, entry.reason) == ("ann, approved by bob", "looked at it")


def _paused(run: Future[Any]) -> UUID:
    """The run that waits."""
    paused = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.PAUSED])))
    with get_client(sync_client=True) as client:
        while not run.done():
            if found := client.read_flow_runs(flow_run_filter=paused):
                return found[0].id
            time.sleep(0.5)
    raise AssertionError(f"nothing waits: {run.result()}")


def test_lineage_leads_to_the_log_and_back(place: Workspace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    store = place.open()
    monkeypatch.chdir(place.root.parents[1])
    shown = _respect("lineage", "respect.b-fft/1")
    (log,) = store.keys("interactions/round=0/variant=seed/")
    source = registry.named(place, "respect.b-fft/1")
    for expected in (
        "goes on from the weights of respect.seed/1",
        "training_sets/round=0/variant=b-fft/_manifest.json",
        source.tags["data_hash"],
        "feedback/round=0/variant=seed/_manifest.json",
        "decoder_model",
        "turns/round=0/variant=seed/_manifest.json",
        log,
        "game_sets/d0.jsonl",
    ):
        assert expected in shown

    rows = tables.read_table(store, "training_sets", [0], ["b-fft"]).to_pylist()
    row = next(each for each in rows if each["source"] == "round" and each["label"] == 1)
    turns = tables.read_table(store, "turns", [0]).to_pylist()
    user = next(each["user"] for each in turns if each["interaction_id"] == row["interaction_id"])
    by_turn = lineage.learned_from(store, interaction_id=row["interaction_id"], turn=row["turn"])
    first = next(each for each in by_turn if each.version == "respect.b-fft/1")
    assert first.turns == ((row["interaction_id"], row["turn"], 1, "round"),) and first.through is None
    assert "respect.seed/1" not in {each.version for each in by_turn}
    assert "respect.b-fft/1" in _respect("lineage", "--turn", f"{row['interaction_id']}/{row['turn']}")
    assert "respect.b-fft/1" in _respect("lineage", "--user", user)

    copied = next(each for each in rows if each["source"] == "rehearsal")
    everyone = {each.version for each in lineage.learned_from(store, interaction_id=copied["interaction_id"])}
    assert {"respect.seed/1", "respect.b-fft/1"} <= everyone  # D0 is rehearsed


def test_the_command_line(place: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the candidate of the round to users and back."""
    monkeypatch.chdir(place.root.parents[1])
    assert "over the cap of 5.0%" in _respect("promote", "b-fft", "--user-share-cap", "0.05", code=3)
    promoted = _respect("promote", "b-fft", "--user-share-cap", "1", "--margin", "1", "--actor", "ann")
    assert "promoted: respect.b-fft/1 is deployed" in promoted
    assert "rolled back: respect.seed/1 is deployed" in _respect("rollback", "b-fft", "--reason", "worse")
    shown = _respect("ledger", "b-fft")
    assert "ann" in shown and "worse" in shown
    assert "nothing" not in _respect("ledger")
    assert "no promotion to roll back" in _respect("rollback", "b-fft", code=1)


def _respect(*command: str, code: int = 0) -> str:
    result = CliRunner().invoke(cli.app, list(command), env={"COLUMNS": "300"})
    assert result.exit_code == code, result.output
    return " ".join(result.output.split())
