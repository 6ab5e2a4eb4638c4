"""A whole round and a promotion on a stack whose Prefect and MLflow keep their records in PostgreSQL."""

from __future__ import annotations

from pathlib import Path

import made_up_games
import pytest
from postgres import Postgres, postgres_server
from running import ROUND, SMALL, RunningStack, free_ports

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
pytest.importorskip("psycopg2", reason="no driver for MLflow: pip install -c constraints.txt -e '.[postgres]'")


def test_a_round_on_postgresql_and_s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with postgres_server(free_ports()[1]) as postgres:
        databases = {name: postgres.create(name) for name in ("prefect", "mlflow")}
        monkeypatch.setenv("PREFECT_API_DATABASE_CONNECTION_URL", postgres.url("asyncpg", databases["prefect"]))
        monkeypatch.setenv("MLFLOW_BACKEND_STORE_URI", postgres.url("psycopg2", databases["mlflow"]))
        stack = RunningStack(tmp_path / "stack")
        stack.up()
        try:
            for name, value in (stack.stack.environment() | stack.stack.login()).items():
                monkeypatch.setenv(name, value)
            made_up_games.people(stack.store())
            made_up_games.play(stack.store(), 0)
            run = stack.ended(stack.start(ROUND, parameters=SMALL | {"variants": ["b-fft"]}))
            assert run["state_type"] == "COMPLETED", run["state"]["message"]
            assert stack.versions()["b-fft"] == 1
            _hides_the_password(stack, postgres)
        finally:
            stack.command("down")
        assert not (stack.stack.folder / "mlflow.db").exists()
        assert not (stack.stack.folder / "prefect" / "prefect.db").exists()
        assert int(postgres.query("mlflow", "SELECT count(*) FROM model_versions")[0]) == 2
        assert int(postgres.query("prefect", "SELECT count(*) FROM flow_run WHERE state_type = 'COMPLETED'")[0]) >= 3


def _hides_the_password(stack: RunningStack, postgres: Postgres) -> None:
    """In no file of the stack, no command line, and nothing that Prefect and MLflow keep."""
    folder, shown = stack.stack.folder, list(stack.processes().values())
    shown += [
        each.read_text(errors="replace") for each in folder.rglob("*") if each.is_file() and "s3" not in each.parts
    ]
    for database in ("prefect", "mlflow"):
        tables = postgres.query(database, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        shown += [line for table in tables for line in postgres.query(database, f'SELECT t::text FROM "{table}" t')]
    assert len(shown) > 100 and not [text[:200] for text in shown if postgres.password in text]
