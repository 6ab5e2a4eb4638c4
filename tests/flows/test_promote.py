"""Promotion with the embedded model, a real Prefect server and MLflow on SQLite: gate, ledger, alias, lineage.

One round makes b-fft/1, and a copy of it is b-fft/2; poisoned copies are versions of b-kto, which is never deployed.
A version is evaluated once, in a process of its own, so that all tests use the same few.
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
from unittest.mock import patch
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

from flows import cli, terminal
from flows import deployed as deployments
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

Change = Callable[[Path], None]
SEED_POLICY, ONE, TWO = "respect.seed/1", "respect.b-fft/1", "respect.b-fft/2"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, prefect_server: None) -> Workspace:
    """A round in which b-fft learned from ten games; twelve games validate."""

    def profile(name: str) -> Profile:
        return replace(smallest(name), validation_games=12)

    made = workspace(tmp_path_factory.mktemp("promotion") / "runs" / "main")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(round_module, "named_profile", profile)
        demo(made, profile="tiny", games=10, replay=0, variants=[Variant.B_FFT])
    _copy(made, Variant.B_FFT, tmp_path_factory.mktemp("copy"))
    return made


@pytest.fixture
def fresh(place: Workspace) -> Workspace:
    """The workspace, with nothing of b-fft deployed."""
    while True:
        try:
            rollback(place, RollbackParameters(variant=Variant.B_FFT))
        except LedgerError:
            return place


def _copy(place: Workspace, variant: Variant, scratch: Path, change: Change | None = None, **tags: str) -> str:
    """Register the adapter of b-fft/1 as the next version of `variant`, its files changed if need be."""
    source = registry.named(place, ONE)
    directory = scratch / f"copy-{variant}"
    shutil.copytree(registry.download(place, source), directory)
    if change:
        change(directory / "adapter_model.safetensors")
    tags = {**source.tags, "adapter_hash": adapter_hash(directory), **tags}
    version = registry.register_adapter(place, source.run_id, variant, directory, tags=tags, metrics={}, step=0)
    return f"{version.name}/{version.version}"


def _promote(place: Workspace, variant: Variant = Variant.B_FFT, **parameters: Any) -> PromotionRef:
    """Against the seed policy with any exact match; ten users cannot each stay under the usual share."""
    given = {"variant": variant, "user_share_cap": 1.0, "margin": 1.0, **parameters}
    return promote(place, PromoteParameters(**given))


def _noise(file: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    noise = {name: torch.randn(value.shape, generator=generator) for name, value in load_file(file).items()}
    save_file(noise, file, metadata={"format": "pt"})


def _not_a_number(file: Path) -> None:
    broken = {name: value * torch.nan for name, value in load_file(file).items()}
    save_file(broken, file, metadata={"format": "pt"})


def _garbage(file: Path) -> None:
    file.write_bytes(b"garbage" * 100)


def _is_deployed(place: Workspace, version: str, variant: Variant = Variant.B_FFT) -> bool:
    """Whether ledger, alias and resolution agree on the version."""
    model, store = registry.model_name(variant), place.open()
    last = ledger.last(store, model)
    alias = registry.aliases(place, model).get(registry.DEPLOYED)
    found = deployment.deployed(place, variant)
    assert last is None or found.tags["adapter_hash"] == last.adapter_hash
    by_alias = f"{model}/{alias}" if alias else SEED_POLICY
    return (last.to_version if last else SEED_POLICY) == by_alias == f"{found.name}/{found.version}" == version


def test_promote_rollback_promote(place: Workspace, tmp_path: Path) -> None:
    assert _is_deployed(place, SEED_POLICY)
    result = _promote(place, version=1, actor="ann", reason="first")
    assert (result.decision, result.version, result.entry) == ("promoted", ONE, 1)
    assert _is_deployed(place, ONE)

    result = _promote(place, margin=None)  # the candidate has the same weights: not below at the usual margin
    assert (result.decision, result.version, result.figures["difference"]) == ("promoted", TWO, 0.0)
    assert _is_deployed(place, TWO)
    assert _promote(place).decision == "already deployed"

    for back in (ONE, SEED_POLICY):
        parameters = RollbackParameters(variant=Variant.B_FFT, reason="worse", actor="bob")
        assert rollback(place, parameters).decision == "rolled back"
        assert _is_deployed(place, back)
    with pytest.raises(LedgerError, match="no promotion to roll back"):
        rollback(place, RollbackParameters(variant=Variant.B_FFT))

    assert _promote(place, version=1).decision == "promoted"
    assert _is_deployed(place, ONE)
    entries = ledger.entries(place.open(), "respect.b-fft")
    assert [(each.action, each.from_version, each.to_version) for each in entries] == [
        ("promote", SEED_POLICY, ONE),
        ("promote", ONE, TWO),
        ("rollback", TWO, ONE),
        ("rollback", ONE, SEED_POLICY),
        ("promote", SEED_POLICY, ONE),
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
        (_noise, {}, r"exact match .* beyond the allowed loss of 0\.0%"),
        (_not_a_number, {}, "probabilities that are not numbers"),
        (_garbage, {}, "ended with exit code 1"),
        (None, {"adapter_hash": "0" * 64}, "its files hash to .* registered is 0000"),
        (None, {"data_hash": "0" * 64}, "its training set .* is another by now"),
    ],
    ids=["noise", "not a number", "garbage", "other files", "unknown data"],
)
def test_a_poisoned_candidate_is_refused(
    place: Workspace, tmp_path: Path, change: Change | None, tags: dict[str, str], reason: str
) -> None:
    version = _copy(place, Variant.B_KTO, tmp_path, change, **tags)
    result = _promote(place, Variant.B_KTO, margin=None)
    assert result.decision == "no promotion"
    assert any(re.search(reason, sentence) for sentence in result.reasons), result.reasons
    assert _is_deployed(place, SEED_POLICY, Variant.B_KTO)
    assert registry.named(place, version).tags["gate"] == "no promotion"


def test_a_candidate_that_learned_too_much_from_one_user_is_refused(fresh: Workspace) -> None:
    result = _promote(fresh, user_share_cap=0.05)
    assert result.decision == "no promotion"
    (reason,) = result.reasons
    assert "over the cap of 5.0%" in reason and str(result.figures["user"]) in reason
    assert _is_deployed(fresh, SEED_POLICY)


def test_of_two_promotions_at_once_one_wins(fresh: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rival goes through while the other's verdict is out: that verdict compared to what is not deployed."""
    report = promote_module.report_gate

    def overtaken(*_: Any) -> None:
        monkeypatch.setattr(promote_module, "report_gate", report)
        assert _promote(fresh, version=1, actor="rival").decision == "promoted"

    monkeypatch.setattr(promote_module, "report_gate", overtaken)
    with pytest.raises(LedgerError, match=rf"rival was first: entry \d+ \(promote to {ONE}\)"):
        _promote(fresh, version=2)
    assert _is_deployed(fresh, ONE)
    assert _promote(fresh, version=2).decision == "promoted"
    assert _is_deployed(fresh, TWO)


def test_killed_between_ledger_and_alias_the_next_operation_settles(
    fresh: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    point = deployment._point_deployed

    def killed(workspace: Workspace, model: str, entry: ledger.Entry | None) -> None:
        if entry is not None and entry.to_version == ONE:
            raise ValueError("killed")
        point(workspace, model, entry)

    with monkeypatch.context() as patch:
        patch.setattr(deployment, "_point_deployed", killed)
        with pytest.raises(ValueError, match="killed"):
            _promote(fresh, version=1)
    assert registry.DEPLOYED not in registry.aliases(fresh, "respect.b-fft")
    assert str(deployment.deployed(fresh, Variant.B_FFT).version) == "1"
    assert _is_deployed(fresh, ONE)

    registry.client(fresh).set_registered_model_alias("respect.b-fft", registry.DEPLOYED, "2")  # past the ledger
    assert rollback(fresh, RollbackParameters(variant=Variant.B_FFT)).version == SEED_POLICY
    assert _is_deployed(fresh, SEED_POLICY)


def test_a_promotion_waits_for_a_person_where_that_is_asked(fresh: Workspace) -> None:
    with ThreadPoolExecutor(1) as pool:
        for approve in (False, True):
            run = pool.submit(contextvars.copy_context().run, lambda: _promote(fresh, approve=True, actor="ann"))
            answer = {"approve": approve, "name": "bob", "note": "looked at it"}
            resume_flow_run(_paused(run), run_input=answer)
            result = run.result()
            if not approve:
                assert result.decision == "no promotion"
                assert result.reasons == ["bob did not approve: looked at it"]
                assert _is_deployed(fresh, SEED_POLICY)
    assert result.decision == "promoted" and _is_deployed(fresh, TWO)
    entry = ledger.last(fresh.open(), "respect.b-fft")
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
    shown = _respect("lineage", ONE)
    (log,) = store.keys("interactions/round=0/variant=seed/")
    source = registry.named(place, ONE)
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

    assert f"{TWO} @candidate" in _respect("lineage", TWO)

    rows = tables.read_table(store, "training_sets", [0], ["b-fft"]).to_pylist()
    row = next(each for each in rows if each["source"] == "round" and each["label"] == 1)
    turns = tables.read_table(store, "turns", [0]).to_pylist()
    user = next(each["user"] for each in turns if each["interaction_id"] == row["interaction_id"])
    by_turn = lineage.learned_from(store, interaction_id=row["interaction_id"], turn=row["turn"])
    first = next(each for each in by_turn if each.version == ONE)
    assert first.turns == ((row["interaction_id"], row["turn"], 1, "round"),) and first.through is None
    assert SEED_POLICY not in {each.version for each in by_turn}
    assert ONE in _respect("lineage", "--turn", f"{row['interaction_id']}/{row['turn']}")
    assert ONE in _respect("lineage", "--user", user)

    copied = next(each for each in rows if each["source"] == "rehearsal")
    everyone = {each.version for each in lineage.learned_from(store, interaction_id=copied["interaction_id"])}
    assert {SEED_POLICY, ONE} <= everyone  # D0 is rehearsed


def test_the_deployments_do_the_same_where_their_environment_says(
    fresh: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RESPECT_STORE", fresh.store_uri)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", fresh.tracking_uri)
    monkeypatch.setenv("RESPECT_ROOT", str(fresh.root))
    asked = PromoteParameters(variant=Variant.B_FFT, version=1, user_share_cap=1.0, margin=1.0)
    assert deployments.promote(asked).decision == "promoted"
    assert _is_deployed(fresh, ONE)
    assert deployments.rollback(RollbackParameters(variant=Variant.B_FFT)).version == SEED_POLICY
    assert _is_deployed(fresh, SEED_POLICY)


def test_the_command_line(fresh: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the candidate to users and back."""
    monkeypatch.chdir(fresh.root.parents[1])
    assert "over the cap of 5.0%" in _respect("promote", "b-fft", "--user-share-cap", "0.05", "--margin", "1", code=3)
    promoted = _respect("promote", "b-fft", "--user-share-cap", "1", "--margin", "1", "--actor", "carol")
    assert f"promoted: {TWO} is deployed" in promoted
    assert f"rolled back: {SEED_POLICY} is deployed" in _respect("rollback", "b-fft", "--reason", "slow")
    assert "no promotion to roll back" in _respect("rollback", "b-fft", code=1)
    shown = _respect("ledger", "b-fft")
    assert "carol" in shown and "slow" in shown and "% against " in shown and shown in _respect("ledger")


def _respect(*command: str, code: int = 0) -> str:
    with patch.object(terminal.console, "_width", 300):  # so that no line is broken
        result = CliRunner().invoke(cli.app, list(command))
    assert result.exit_code == code, result.output
    return " ".join(result.output.split())
