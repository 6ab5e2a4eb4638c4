"""Where a run's data lives, and what is never written down of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.registry import registry
from tasks.support.workspace import from_environment, without_password, workspace


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("postgresql+psycopg2://u:secret@h:5432/mlflow", "postgresql+psycopg2://u@h:5432/mlflow"),
        ("postgresql://u:sec/ret@1@h/mlflow", "postgresql://u@h/mlflow"),
        ("postgresql://h/db?user=u&password=secret&sslmode=require", "postgresql://h/db?user=u&password=&sslmode=require"),
        ("http://u:secret@h:5000", "http://u@h:5000"),
        ("http://h:5000", "http://h:5000"),
        ("sqlite:////a:b@c/mlflow.db", "sqlite:////a:b@c/mlflow.db"),
    ],
)  # fmt: skip
def test_a_password_is_used_and_not_written_down(
    uri: str, shown: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("RESPECT_STORE", "s3://bucket/store")
    monkeypatch.setenv("RESPECT_ROOT", str(tmp_path))
    assert without_password(uri) == shown
    for place in (workspace(tmp_path), from_environment(), from_environment("studies/one")):
        assert place.tracking_uri == shown and place.tracking == uri
        assert "sec" not in f"{place!r} {place.model_dump_json()}"
        assert type(place).model_validate_json(place.model_dump_json()).tracking == uri


def test_another_database_does_not_get_the_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://u:secret@h/mlflow")
    other = workspace(tmp_path).model_copy(update={"tracking_uri": "postgresql://u@elsewhere/mlflow"})
    assert other.tracking == "postgresql://u@elsewhere/mlflow"


def test_an_error_names_the_uri_without_its_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgre://u:secret@h/mlflow")
    with pytest.raises(ValueError, match=r"postgre://u@h/mlflow") as told:
        registry.client(workspace(tmp_path))
    assert "secret" not in str(told.value)
