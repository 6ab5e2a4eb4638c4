"""Settings of Prefect and MLflow that must be in place before either is imported, and permissions of written files."""

from __future__ import annotations

import os
from pathlib import Path

from flows.support import servers


def prepare(root: Path) -> None:
    """Keep Prefect's database with the run, unless a server is configured, and keep Prefect and MLflow quiet and local.

    From here on, only the user can read what the process writes, or use the temporary server that Prefect starts.
    """
    os.umask(0o077)
    (root / "prefect").mkdir(parents=True, exist_ok=True)
    defaults = {
        "PREFECT_HOME": str(root.resolve() / "prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",  # two busy cores need more than the default 20
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "WARNING",  # the terminal shows bars; the UI keeps the log
        "DO_NOT_TRACK": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_LOGGING_LEVEL": "WARNING",
        "TQDM_DISABLE": "1",  # libraries' own bars would garble ours
        "OMP_WAIT_POLICY": "PASSIVE",
        "TOKENIZERS_PARALLELISM": "false",
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    if "PREFECT_SERVER_API_AUTH_STRING" not in os.environ and not _server_configured():
        os.environ.update(servers.prefect_login(servers.new_password()))
        os.environ["PREFECT_SERVER_CORS_ALLOWED_ORIGINS"] = "none"  # it has no page of its own


def _server_configured() -> bool:
    """Whether Prefect's clients are set to use somebody else's server, with its own login."""
    profiles = Path(os.environ["PREFECT_HOME"]) / "profiles.toml"
    return "PREFECT_API_URL" in os.environ or (profiles.exists() and "PREFECT_API_URL" in profiles.read_text())
