"""Declare the environment variables that the project reads: each with its type, default and meaning, once.

They are read at use, so that a change takes effect, and pass to processes started later as the environment does.
docs/operations.md has the same table (`python -m tests.variables`).
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AliasGenerator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from respect_core.errors import ExpectedError

Port = Annotated[int, Field(ge=1, le=65535)]


class SettingsError(ExpectedError, ValueError):
    """A variable has a value that it cannot have."""


class Settings(BaseSettings):
    """The variables, by field; an empty one counts as not set. Addresses that may contain a password are not shown."""

    model_config = SettingsConfigDict(
        alias_generator=AliasGenerator(validation_alias=lambda name: f"RESPECT_{name.upper()}"),
        case_sensitive=True,
        env_ignore_empty=True,
        frozen=True,
    )

    store: str | None = Field(
        default=None,
        description="The store, a folder or `s3://bucket/prefix`, one for all machines; empty: in the run's folder",
    )
    tracking_uri: str | None = Field(
        default=None,
        validation_alias="MLFLOW_TRACKING_URI",
        repr=False,
        description="The MLflow server, or its database; empty: a database in the run's folder. A password in it stays "
        "in this variable and enters no flow parameter, specification or message",
    )
    root: Path | None = Field(
        default=None,
        description="Folder for checkpoints, features and resume points; a machine that does not see it restarts a "
        "killed training from the beginning",
    )
    s3_endpoint: str | None = Field(default=None, repr=False, description="The S3 endpoint; empty: Amazon's")
    s3_attempts: int = Field(
        default=5, ge=1, validation_alias="AWS_MAX_ATTEMPTS", description="How often a request to S3 is tried"
    )
    user_key: SecretStr | None = Field(
        default=None,
        description="Secret that turns user ids into pseudonyms; empty: a key that everybody knows",
    )
    openai_api_key: SecretStr | None = Field(
        default=None,
        validation_alias="OPENAI_API_KEY",
        description="Key of the OpenAI-compatible endpoint that a command names; empty: none is sent",
    )
    vllm_key: SecretStr | None = Field(
        default=None,
        validation_alias="VLLM_API_KEY",
        description="Key of the vLLM server behind the gateway, if it asks",
    )
    cache: Path = Field(
        default=Path("~/.cache/respect"),
        description="Folder of models unpacked for this machine, and of the tables of new Prefect databases",
    )
    precision: Literal["auto", "bfloat16", "float32"] = Field(
        default="auto",
        description="Of models; auto: bfloat16 on GPUs and on CPUs that multiply it in tiles (AMX), where a decoder "
        "rounds its products alone",
    )
    accelerate: Path | None = Field(
        default=None,
        description="Configuration file of accelerate, which says how many processes train together; empty: one",
    )
    ray_address: str = Field(default="auto", validation_alias="RAY_ADDRESS", description="The Ray cluster")
    operator_token: SecretStr = Field(
        default=SecretStr(""),
        description="Opens the `/operator` pages of game and gateway; 16 characters or more; empty: they are closed",
    )
    annotator_tokens: SecretStr = Field(
        default=SecretStr(""),
        description="`name:token,name:token` opens the game's `/annotate` page; 16 characters or more in each token; "
        "empty: the page is closed",
    )
    gateway_keys: SecretStr = Field(
        default=SecretStr(""),
        description="`name:key,name:key` of who may talk to the gateway; 16 characters or more in each key; empty: "
        "everybody on this machine",
    )
    link_key: SecretStr = Field(
        default=SecretStr(""),
        description="Signs the links of approvers and participants (`respect link`) and the answers of the approvals "
        "page, which workers check with the same key; 16 characters or more; empty: there are none",
    )
    proxy_header: str | None = Field(
        default=None,
        description="Header in which a proxy that signs people in names them to the approvals page, such as "
        "`X-Forwarded-User`; needs `RESPECT_PROXY_SECRET`",
    )
    proxy_secret: SecretStr = Field(
        default=SecretStr(""),
        description="What that proxy sends in `X-Respect-Proxy`, so that nobody else can say who they are; 16 "
        "characters or more",
    )
    stack: Path | None = Field(
        default=None, description="Folder of the local stack's state; empty: `runs/stack` of the checkout"
    )
    prefect_port: Port = Field(default=4200, description="Port of the local stack's Prefect server on 127.0.0.1")
    mlflow_port: Port = Field(default=5000, description="Port of the local stack's MLflow server on 127.0.0.1")
    s3_port: Port = Field(default=8333, description="Port of the local stack's S3; SeaweedFS takes the next nine too")
    gateway_port: Port = Field(default=8000, description="Port of the local stack's gateway on 127.0.0.1")
    approvals_port: Port = Field(default=8070, description="Port of the local stack's approvals page on 127.0.0.1")
    start_seconds: float = Field(
        default=300, gt=0, description="How long `make up` waits for a process to answer; a busy machine needs more"
    )
    mlflow_database: str | None = Field(
        default=None,
        validation_alias="MLFLOW_BACKEND_STORE_URI",
        repr=False,
        description="Database of the local stack's MLflow server; empty: SQLite in the stack's folder",
    )
    code: Path | None = Field(
        default=None, description="Where workers find this code; read when `deployments/prefect.yaml` is deployed"
    )


SHORTEST_TOKEN = 16
"""Characters."""


def named_tokens(variable: str, secret: SecretStr) -> dict[str, str]:
    """Return names by token, from 'ann:token,bob:token'.

    Raises:
        SettingsError: a token has no name, is short, or is that of two names.
    """
    names: dict[str, str] = {}
    for part in filter(None, secret.get_secret_value().split(",")):
        name, _, token = part.strip().partition(":")
        if not name or token in names:
            raise SettingsError(f"{variable}: write 'name:token,name:token', a token of its own for each")
        require_long(variable, token)
        names[token] = name
    return names


def require_long(variable: str, token: str) -> None:
    """Raise SettingsError for a token that may be guessed."""
    if len(token) < SHORTEST_TOKEN:
        raise SettingsError(f"{variable} needs {SHORTEST_TOKEN} characters or more, e.g. of `openssl rand -hex 16`")


def operator_token() -> str | None:
    """Return RESPECT_OPERATOR_TOKEN; None where it is not set. Raises SettingsError for a short one."""
    token = settings().operator_token.get_secret_value() or None
    if token is not None:
        require_long("RESPECT_OPERATOR_TOKEN", token)
    return token


def link_key() -> str | None:
    """Return RESPECT_LINK_KEY; None where it is not set. Raises SettingsError for a short one."""
    key = settings().link_key.get_secret_value() or None
    if key is not None:
        require_long("RESPECT_LINK_KEY", key)
    return key


VARIABLES = {str(field.validation_alias): field for field in Settings.model_fields.values()}


def settings() -> Settings:
    """Read the environment as it is now.

    Raises:
        SettingsError: a variable has a value that it cannot have.
    """
    return _read(tuple(map(os.environ.get, VARIABLES)))


@lru_cache(maxsize=1)  # a millisecond, while a pseudonym takes microseconds
def _read(_environment: tuple[str | None, ...]) -> Settings:
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        meaning = VARIABLES[name].description
        raise SettingsError(f"{name}={first['input']!r}: {first['msg']}. Unset it, or set it: {meaning}") from None
