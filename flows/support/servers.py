"""Start Prefect's and MLflow's servers on the loopback, behind a guard (flows/support/guard.py) and a login."""

from __future__ import annotations

import base64
import secrets
import sys
from pathlib import Path

USER = "respect"


def prefect_command(port: int) -> list[str]:
    """Return the command that starts Prefect's server; its environment needs `prefect_settings` and `prefect_login`."""
    options = ["--host", "127.0.0.1", "--port", str(port), "--log-level", "warning"]
    return [sys.executable, "-m", "uvicorn", "--factory", "flows.support.guard:prefect", *options]


def mlflow_command(port: int) -> list[str]:
    """Return the command that starts MLflow's server; its environment needs `mlflow_settings` and `mlflow_login`."""
    options = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    return [sys.executable, "-m", "mlflow", "server", "--app-name", "respect", *options]


def prefect_settings(port: int) -> dict[str, str]:
    """Return what makes Prefect's server remember slots, and its page ask it alone; other origins are kept away."""
    return {
        "PREFECT_SERVER_UI_API_URL": f"http://127.0.0.1:{port}/api",  # the page would ask port 4200
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": f"http://127.0.0.1:{port},http://localhost:{port}",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        # On disk: a run whose slot the server forgot, as it was restarted, is ended at its next renewal.
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
        "PREFECT_SERVER_UI_V2_ENABLED": "false",  # the new page asks a tracker for its settings before it knows its own
    }


def mlflow_settings(backend_store_uri: str) -> dict[str, str]:
    """Return where MLflow's server keeps its records; not on a command line, as a URI may contain a password."""
    return {
        "MLFLOW_BACKEND_STORE_URI": backend_store_uri,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # four more processes that nothing here needs
    }


def new_password() -> str:
    """Generate a password of 192 random bits."""
    return secrets.token_urlsafe(24)


def password(file: Path) -> str:
    """Read the password from its file, which is made if absent and which only its owner may read."""
    if not file.exists() or not file.read_text():
        file.touch(0o600)  # before it contains a secret
        file.write_text(new_password())
    return file.read_text()


def prefect_login(password: str) -> dict[str, str]:
    """Return the variables from which Prefect's clients and its server take the login."""
    return dict.fromkeys(("PREFECT_API_AUTH_STRING", "PREFECT_SERVER_API_AUTH_STRING"), f"{USER}:{password}")


def mlflow_login(password: str) -> dict[str, str]:
    """Return the variables from which MLflow's clients and its server's guard take the login."""
    return {"MLFLOW_TRACKING_USERNAME": USER, "MLFLOW_TRACKING_PASSWORD": password}


def how_to_log_in(password: str) -> str:
    """Tell a person what to type, once in each browser."""
    return f"login    MLflow asks for user {USER}, password {password}; Prefect for {USER}:{password}"


def answers(url: str, password: str) -> bool:
    """Whether a server answers at this URL with this password."""
    import urllib.request  # not for --help

    basic = base64.b64encode(f"{USER}:{password}".encode()).decode()
    request = urllib.request.Request(url, headers={"Authorization": f"Basic {basic}"})
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
