"""What is deployed, by a ledger in a directory and a real MLflow on SQLite."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow.entities.model_registry import ModelVersion

from respect_core.release import ledger
from respect_core.store.base import Store
from tasks.registry import deployed as deployment
from tasks.registry import registry
from tasks.support.workspace import Workspace, workspace

MODEL = "respect.b-fft"


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A seed policy and three versions of b-fft, whose adapters are named after them."""
    place = workspace(tmp_path_factory.mktemp("deployed"))
    adapter = tmp_path_factory.mktemp("adapter")
    (adapter / "adapter_config.json").write_text("{}")
    for variant, versions in (("seed", 1), ("b-fft", 3)):
        for number in range(1, versions + 1):
            run_id = registry.start_run(place, f"{variant} {number}")
            tags = {"round": number, "adapter_hash": f"{variant}-{number}"}
            registry.register_adapter(place, run_id, variant, adapter, tags=tags, metrics={}, step=0)
    return place


@pytest.fixture
def place(registered: Workspace, tmp_path: Path) -> Workspace:
    """The same registry with an empty ledger."""
    return registered.model_copy(update={"store_uri": str(tmp_path / "store")})


def _promote(place: Workspace, number: int, adapter_hash: str | None = None) -> None:
    """Into the ledger only."""
    history = ledger.entries(place.open(), MODEL)
    entry = ledger.promotion(
        history,
        MODEL,
        from_version=history[-1].to_version if history else "respect.seed/1",
        to_version=f"{MODEL}/{number}",
        adapter_hash=adapter_hash or f"b-fft-{number}",
        actor="ann",
    )
    ledger.append(place.open(), entry)


def _alias(place: Workspace) -> str | None:
    return registry.aliases(place, MODEL).get(registry.DEPLOYED)


def test_before_any_promotion_the_seed_policy_acts_whatever_the_alias_says(place: Workspace) -> None:
    registry.client(place).set_registered_model_alias(MODEL, registry.DEPLOYED, "2")
    version = deployment.deployed(place, "b-fft")
    assert (version.name, version.tags["adapter_hash"]) == ("respect.seed", "seed-1")
    assert _alias(place) is None


def _register_seed(place: Workspace, folder: Path, adapter_hash: str) -> ModelVersion:
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text("{}")
    tags = {"round": 9, "adapter_hash": adapter_hash}
    return registry.register_adapter(
        place, registry.start_run(place, "seed"), "seed", folder, tags=tags, metrics={}, step=0
    )


def test_whoever_registers_a_seed_policy_deploys_nothing(tmp_path: Path) -> None:
    """Users get the one that our own training registered, or that was there first; what comes later is pinned."""
    place = workspace(tmp_path / "run")
    _register_seed(place, tmp_path / "adapter", "first")
    assert deployment.deployed(place, "control").tags["adapter_hash"] == "first"
    foreign = _register_seed(place, tmp_path / "adapter", "foreign")
    assert deployment.deployed(place, "b-fft").tags["adapter_hash"] == "first"
    assert not deployment.is_pinned(place, foreign)
    ours = _register_seed(place, tmp_path / "adapter", "ours")
    for _ in range(2):
        deployment.pin_seed(place, ours)
    assert deployment.deployed(place, "control").tags["adapter_hash"] == "ours"
    assert [each.to_version for each in ledger.entries(place.open(), "respect.seed")] == [
        "respect.seed/1",
        f"respect.seed/{ours.version}",
    ]
    registry.client(place).set_model_version_tag("respect.seed", ours.version, "adapter_hash", "another")
    with pytest.raises(ValueError, match="has adapter another, but entry 2 of the ledger says ours"):
        deployment.deployed(place, "control")


def test_of_two_that_pin_a_seed_policy_at_once_both_are_in_the_ledger(
    place: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = registry.named(place, "respect.seed/1"), registry.named(place, f"{MODEL}/1")
    append = ledger.append

    def late(store: Store, entry: ledger.Entry) -> None:
        monkeypatch.setattr(ledger, "append", append)
        deployment.pin_seed(place, two)
        append(store, entry)

    monkeypatch.setattr(ledger, "append", late)
    deployment.pin_seed(place, one)
    assert [each.to_version for each in ledger.entries(place.open(), "respect.seed")] == [
        f"{MODEL}/1",
        "respect.seed/1",
    ]


def test_the_alias_follows_the_ledger(place: Workspace) -> None:
    for number in (1, 3, 2):
        _promote(place, number)
        assert deployment.deployed(place, "b-fft").tags["adapter_hash"] == f"b-fft-{number}"
        assert _alias(place) == str(number)


def test_a_slow_writer_does_not_undo_what_a_later_one_did(place: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between its look at the ledger and its setting of the alias, another version is promoted and settled."""
    point = deployment._point_deployed

    def slow(workspace: Workspace, model: str, entry: ledger.Entry | None) -> None:
        monkeypatch.setattr(deployment, "_point_deployed", point)
        _promote(place, 2)
        deployment.settle(place, "b-fft")
        point(workspace, model, entry)

    _promote(place, 1)
    monkeypatch.setattr(deployment, "_point_deployed", slow)
    entry = deployment.settle(place, "b-fft")
    assert entry is not None and entry.to_version == f"{MODEL}/2"
    assert _alias(place) == "2"


def test_a_version_that_is_not_what_was_promoted_is_not_served(place: Workspace) -> None:
    _promote(place, 1, adapter_hash="another")
    with pytest.raises(
        ValueError, match=r"respect\.b-fft/1 has adapter b-fft-1, but entry 1 of the ledger says another"
    ):
        deployment.deployed(place, "b-fft")


def test_a_version_that_is_gone_is_named_and_its_alias_too(place: Workspace) -> None:
    _promote(place, 9)
    with pytest.raises(ValueError, match=r"'respect\.b-fft/9' is not a registered version"):
        deployment.deployed(place, "b-fft")
    assert _alias(place) is None


def test_the_candidate_is_the_newest_unless_one_is_named(place: Workspace) -> None:
    assert str(deployment.candidate(place, "b-fft").version) == "3"
    assert str(deployment.candidate(place, "b-fft", 1).version) == "1"
    with pytest.raises(ValueError, match="t-rl has no candidate"):
        deployment.candidate(place, "t-rl")


def test_a_registry_without_a_seed_policy_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"b-fft was never promoted, and .* has no seed policy; run a round"):
        deployment.deployed(workspace(tmp_path), "b-fft")
