"""Environment variables are declared in one place, and read as they are now."""

from __future__ import annotations

import re
import time

import pytest
import variables
from paths import REPOSITORY

from respect_core.settings import VARIABLES, Settings, SettingsError, settings


def test_the_documentation_has_the_table() -> None:
    assert variables.main(["--check"]) is None
    assert all(field.description for field in VARIABLES.values())


def test_every_variable_that_is_named_anywhere_is_declared() -> None:
    places = [REPOSITORY / name for name in ("respect_core", "tasks", "flows", "deployments", "docs")]
    files = [path for place in places for path in place.rglob("*") if path.suffix in {".py", ".md", ".yaml", ".json"}]
    named = {name for path in files for name in re.findall(r"\bRESPECT_[A-Z0-9_]*[A-Z0-9]\b", path.read_text())}
    assert named - VARIABLES.keys() == {"RESPECT_PASSWORD"}  # of the shell that sources the local stack's `env`


def test_nothing_else_in_the_product_reads_them() -> None:
    read = re.compile(r"(os\.environ|getenv).*RESPECT_|RESPECT_.*os\.environ")
    packages = ("respect_core", "tasks", "flows", "deployments")
    files = [path for name in packages for path in (REPOSITORY / name).rglob("*.py")]
    assert [line.strip() for path in files for line in path.read_text().splitlines() if read.search(line)] == [
        'environment = {**os.environ, "RESPECT_CODE": str(REPOSITORY)}'  # for the child process
    ]


def test_a_change_takes_effect_and_an_empty_variable_counts_as_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESPECT_STORE", "s3://bucket/one")
    assert settings().store == "s3://bucket/one"
    monkeypatch.setenv("RESPECT_STORE", "s3://bucket/two")
    assert settings().store == "s3://bucket/two"
    monkeypatch.setenv("RESPECT_STORE", "")
    assert settings().store is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RESPECT_S3_PORT", "80a"),
        ("RESPECT_MLFLOW_PORT", "65536"),
        ("RESPECT_START_SECONDS", "-1"),
        ("AWS_MAX_ATTEMPTS", "0"),
    ],
)
def test_an_error_names_the_variable_and_says_what_it_is_for(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=f"{name}='{value}': .*Unset it, or set it: ") as refused:
        settings()
    assert str(VARIABLES[name].description) in str(refused.value)


def test_secrets_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RESPECT_USER_KEY", "RESPECT_OPERATOR_TOKEN", "RESPECT_ANNOTATOR_TOKENS"):
        monkeypatch.setenv(name, "hush-hush-hush-hush")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://user:hush@host/mlflow")
    monkeypatch.setenv("MLFLOW_BACKEND_STORE_URI", "postgresql://user:hush@host/mlflow")
    monkeypatch.setenv("RESPECT_S3_ENDPOINT", "http://user:hush@host")
    assert "hush" not in f"{settings()!r}{settings()}"


def test_reading_an_unchanged_environment_costs_little() -> None:
    """Pseudonyms are made by the thousand."""
    settings()
    start = time.thread_time()
    for _ in range(1000):
        settings()
    assert time.thread_time() - start < 0.5 and settings() == Settings()
