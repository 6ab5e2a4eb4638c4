"""Where the local stack keeps its state and listens, and what its processes and clients know of it."""

from __future__ import annotations

import secrets
import shlex
from configparser import ConfigParser
from dataclasses import dataclass
from pathlib import Path

from deployments.local import seaweedfs
from flows.support import servers
from respect_core.settings import settings

REPOSITORY = Path(__file__).parents[2]
BUCKET = "respect"
ARTIFACTS = "mlflow"
"""Bucket behind the MLflow server's artifact proxy; only that server reads and writes it."""
LIGHT = "respect-light"
"""Work pool of flows that read, write and wait."""
GPU = "respect-gpu"
"""Work pool of flows that compute: one run for each device."""
LIGHT_RUNS = 9
"""Runs at once on the light pool, one of them the reaper's."""
S3_PORTS = seaweedfs.PORTS
"""Ports that SeaweedFS takes, from the S3 port on."""

FOREIGN = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE")
"""Variables of other installations, which boto3 would prefer to the stack's credentials file."""


@dataclass(frozen=True)
class Stack:
    """One local stack: a folder for its state, and ports on the loopback."""

    folder: Path
    prefect_port: int = 4200
    mlflow_port: int = 5000
    s3_port: int = 8333
    gateway_port: int = 8000
    approvals_port: int = 8070

    @property
    def prefect(self) -> str:
        return f"http://127.0.0.1:{self.prefect_port}"

    @property
    def mlflow(self) -> str:
        return f"http://127.0.0.1:{self.mlflow_port}"

    @property
    def s3(self) -> str:
        return f"http://127.0.0.1:{self.s3_port}"

    @property
    def gateway(self) -> str:
        return f"http://127.0.0.1:{self.gateway_port}"

    @property
    def approvals(self) -> str:
        return f"http://127.0.0.1:{self.approvals_port}"

    @property
    def ports(self) -> dict[int, str]:
        """Every port, what listens there, and the variable that changes it; without the gateway's."""
        s3 = {self.s3_port + n: f"SeaweedFS (RESPECT_S3_PORT and the {S3_PORTS - 1} after it)" for n in range(S3_PORTS)}
        return {
            self.prefect_port: "Prefect (RESPECT_PREFECT_PORT)",
            self.mlflow_port: "MLflow (RESPECT_MLFLOW_PORT)",
            self.approvals_port: "the approvals page (RESPECT_APPROVALS_PORT)",
            **s3,
        }

    @property
    def logs(self) -> Path:
        return self.folder / "logs"

    @property
    def credentials(self) -> Path:
        """In the format of AWS's shared credentials file."""
        return self.folder / "credentials"

    @property
    def password(self) -> Path:
        """File with the password for Prefect and MLflow."""
        return self.folder / "password"

    @property
    def link_key(self) -> Path:
        """File with the key that signs approvers' links and answers, unless RESPECT_LINK_KEY has one."""
        return self.folder / "link_key"

    @property
    def s3_folder(self) -> Path:
        return self.folder / "s3"

    def environment(self) -> dict[str, str]:
        """Return what a process needs to find the stack. It contains no secret: credentials are named by their file."""
        return {
            "PREFECT_API_URL": f"{self.prefect}/api",
            "PREFECT_HOME": str(self.folder / "prefect"),
            "MLFLOW_TRACKING_URI": self.mlflow,
            "RESPECT_STORE": f"s3://{BUCKET}/store",
            "RESPECT_ROOT": str(self.folder / "workspace"),
            "RESPECT_S3_ENDPOINT": self.s3,
            "AWS_SHARED_CREDENTIALS_FILE": str(self.credentials),
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def login(self) -> dict[str, str]:
        """Return what a process needs, besides `environment`, to log in to Prefect and MLflow."""
        password = servers.password(self.password)
        return servers.prefect_login(password) | servers.mlflow_login(password)

    def prepare(self) -> None:
        """Make folders, credentials (once; readable only by their owner) and `env`, for a shell to source."""
        for path in (self.folder, self.logs, self.folder / "prefect"):
            path.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o700)
        seaweedfs.prepare(self.s3_folder)
        if not self.credentials.exists() or not self.credentials.read_text():
            text = (
                "[default]\n"
                f"aws_access_key_id = {secrets.token_hex(16)}\n"
                f"aws_secret_access_key = {secrets.token_hex(32)}\n"
            )
            self.credentials.touch(0o600)  # before it contains a secret
            self.credentials.write_text(text)
        lines = [f"unset {' '.join(FOREIGN)}\n"]
        lines += [f"export {name}={shlex.quote(value)}\n" for name, value in self.environment().items()]
        password = servers.password(self.password)
        lines.append(f"RESPECT_PASSWORD=$(cat {shlex.quote(str(self.password))})\n")
        hidden = {name: value.replace(password, "$RESPECT_PASSWORD") for name, value in self.login().items()}
        lines += [f'export {name}="{value}"\n' for name, value in hidden.items()]
        servers.password(self.link_key)  # makes it
        lines.append(f'export RESPECT_LINK_KEY="${{RESPECT_LINK_KEY:-$(cat {shlex.quote(str(self.link_key))})}}"\n')
        (self.folder / "env").write_text("".join(lines))

    def read_credentials(self) -> dict[str, str]:
        """Return the S3 server's credentials, as variables of its environment."""
        parser = ConfigParser()
        parser.read(self.credentials)
        return {name.upper(): value for name, value in parser["default"].items()}


def from_environment() -> Stack:
    """Return the stack, as set by RESPECT_STACK and the variables of its ports."""
    variables = settings()
    folder = (variables.stack or REPOSITORY / "runs" / "stack").resolve()
    ports = (variables.prefect_port, variables.mlflow_port, variables.s3_port)
    return Stack(folder, *ports, variables.gateway_port, variables.approvals_port)
