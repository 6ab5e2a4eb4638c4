"""Follow-ups of a round's conversations are drawn, labelled on the page of the audit, and reported."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from chats import conversations
from fastapi.testclient import TestClient
from reports import SCRIPT
from typer.testing import CliRunner

from deployments.cli import main
from deployments.game.engine.settings import Settings
from deployments.game.web.audit import create_audit_app
from respect_core.log.pseudonyms import pseudonym
from respect_core.measuring.annotation_tasks import AuditTask, put_tasks, read_tasks, sample_follow_ups
from respect_core.measuring.evidence import gather
from respect_core.reporting.report import write
from respect_core.store.base import Store
from respect_core.store.manifests import TableError
from respect_core.store.open import open_store
from respect_core.store.tables import read_table

ANN = "ann-has-a-long-token"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return conversations(tmp_path / "runs/mine/store")


@pytest.fixture
def client(store: Store) -> Iterator[TestClient]:
    with TestClient(create_audit_app(store, Settings(annotator_tokens={ANN: "ann"}))) as client:
        yield client


def test_a_draw_repeats_grows_and_has_decoded_follow_ups_alone(store: Store) -> None:
    def keys(**options: int) -> set[tuple[str, int]]:
        tasks = sample_follow_ups(store, 0, "seed", **options)
        assert len({task.interaction_id for task in tasks}) == len(tasks)
        return {(task.interaction_id, turn.turn) for task in tasks for turn in task.turns}

    assert len(keys(turns=9)) == 9 and keys(turns=9) == keys(turns=9) != keys(turns=9, seed=1)
    assert keys(turns=5) < keys(turns=9) < keys() and len(keys()) == 24
    with pytest.raises(TableError, match="no decoded follow-ups of round 7"):
        sample_follow_ups(store, 7, "seed")


def test_a_task_has_the_conversation_up_to_the_follow_up(store: Store) -> None:
    task = sample_follow_ups(store, 0, "seed")[0]
    first, second = task.turns[:2]
    assert first.messages[0] == ("system", "You run a home.")
    assert [role for role, _ in first.messages] == ["system", "user", "assistant"]
    assert first.follow_up == "no, in the hall!" == second.messages[3][1]
    assert second.messages[-1] == ("assistant", "The light is on.")
    put_tasks(store, [task])
    assert read_tasks(store, AuditTask) == [task] and read_tasks(store) == []  # games have their own


def _label(client: TestClient, labels: list[str]) -> None:
    assert client.post("/api/annotate/login", json={"token": ANN}).status_code == 200
    task = client.get("/api/annotate/next").json()["task"]
    for done, label in enumerate(labels, start=1):
        at = {name: task[name] for name in ("interaction", "turn")}
        reply = client.post("/api/annotate/answer", json=at | {"satisfaction": label}).json()
        assert reply["done"] == done
        task = reply["task"]
    assert task is None


def test_labels_go_to_the_table_and_to_the_report(
    client: TestClient, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_tasks(store, sample_follow_ups(store, 1, "b-fft", turns=8))
    _label(client, ["yes", "neutral", "no", "yes", "yes", "no", "neutral", "yes"])
    rows = read_table(store, "annotations").to_pylist()
    assert sorted(row["satisfaction"] for row in rows) == ["neutral"] * 2 + ["no"] * 2 + ["yes"] * 4
    assert {(row["annotator"], row["intended"], row["correct"]) for row in rows} == {(pseudonym("ann"), None, None)}

    monkeypatch.chdir(tmp_path)
    run = CliRunner().invoke(main.app, ["annotate", "report", "--run", "mine", "--round", "1", "--variant", "b-fft"])
    said = " ".join(run.output.split())
    assert run.exit_code == 0 and "8 follow-ups of round 1, b-fft" in said, run.output
    labels = {(row["interaction_id"], row["turn"]): row["satisfaction"] for row in rows}
    decoded = {
        (row["interaction_id"], row["turn"]): row["label"]
        for row in read_table(store, "feedback", [1], ["b-fft"]).to_pylist()
    }
    evidence = gather(store, "mine")
    found = evidence.cells["b-fft"][1].decoded["ternary"]
    assert found.against == "annotations" and found.by_label[1].actual == 4
    right = sum(decoded[key] == 1 for key, label in labels.items() if label == "yes")
    said_positive = sum(decoded[key] == 1 for key in labels)
    positives = found.by_label[1]
    assert positives.recall is not None and positives.recall.value == pytest.approx(right / 4)
    assert positives.precision is not None and positives.precision.value == pytest.approx(right / said_positive)
    write(evidence, tmp_path / "report")
    page = (tmp_path / "report/index.html").read_text()
    assert "negatives: precision" in page and "partly right" not in page and "exact match" not in page.lower()


def test_the_page_reads_as_text_and_refuses_what_it_did_not_ask_for(client: TestClient, store: Store) -> None:
    put_tasks(store, sample_follow_ups(store, 0, "seed"))
    page = client.get("/annotate")
    assert page.status_code == 200 and "board" not in page.text and "MULTIREF" not in page.text
    assert client.get("/static/audit.js").status_code == 200 and client.get("/play").status_code == 404
    assert client.get("/api/annotate/next").status_code == 401
    client.post("/api/annotate/login", json={"token": ANN})
    task = client.get("/api/annotate/next").json()["task"]
    texts = [said["text"] for said in task["messages"]]
    assert any(SCRIPT in text for text in texts)  # text for the page's script, which makes no HTML of it
    assert not any("\u202e" in text or text.startswith("CALL") for text in texts)
    at = {name: task[name] for name in ("interaction", "turn")}
    for wrong in ({"satisfaction": "partial"}, {"satisfaction": "yes", "intended": "hi"}, {}):
        assert client.post("/api/annotate/answer", json=at | wrong).status_code == 422
    assert client.post("/api/annotate/answer", json=at | {"turn": 99, "satisfaction": "yes"}).status_code == 409


def test_the_command_draws_follow_ups(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    at = ["--run", "mine", "--round", "0", "--variant", "seed"]
    run = CliRunner().invoke(main.app, ["annotate", "report", *at])
    assert run.exit_code == 1 and "nobody annotated" in " ".join(run.output.split())
    run = CliRunner().invoke(main.app, ["annotate", "sample", *at, "--turns", "7"])
    assert run.exit_code == 0 and "7 follow-ups in" in " ".join(run.output.split()), run.output
    assert sum(len(task.turns) for task in read_tasks(open_store(tmp_path / "runs/mine/store"), AuditTask)) == 7


def test_the_queue_is_reviewed_on_the_page_and_reported(
    client: TestClient, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = CliRunner().invoke(main.app, ["annotate", "queue", "--run", "mine", "--audit", "6"])
    said = " ".join(run.output.split())
    assert run.exit_code == 0 and "4 of 4 follow-ups" in said and "6 of all 24" in said, run.output
    asked = sum(len(task.turns) for task in read_tasks(store, AuditTask))
    assert client.post("/api/annotate/login", json={"token": ANN}).status_code == 200
    assert "chance" not in client.get("/api/annotate/next").text, "nobody is told why they are asked"
    _label(client, ["no"] * asked)
    assert {row["source"] for row in read_table(store, "annotations").to_pylist()} == {"review"}
    run = CliRunner().invoke(main.app, ["annotate", "report", "--run", "mine", "--round", "1", "--variant", "b-fft"])
    said = " ".join(run.output.split())
    assert run.exit_code == 0 and f"ternary: people labelled {asked} follow-ups" in said, run.output
    assert "audit alone (6)" in said and "with the queue" in said
    write(gather(store, "mine"), tmp_path / "report")
    assert "What people who reviewed follow-ups say" in (tmp_path / "report/index.html").read_text()
