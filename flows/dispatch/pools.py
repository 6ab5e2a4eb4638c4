"""Work sent to Prefect work pools: one result per key, no matter how many callers ask for it or how many times."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import count
from typing import Any, TypeVar

import httpx
from mlflow.exceptions import MlflowException
from prefect import runtime, task
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.deployments import run_deployment
from prefect.exceptions import PrefectException
from prefect.states import Cancelling
from pydantic import BaseModel

from respect_core.errors import ExpectedError
from respect_core.store.base import StoreError
from tasks.registry import results
from tasks.support.interruption import interrupts, sleep
from tasks.support.retries import PATIENT, is_transient
from tasks.support.workspace import Workspace

Result = TypeVar("Result", bound=BaseModel)

CRASHES = 3
"""How many times a run may be lost with its worker before the flow that asked for it gives up."""
_POLL_SECONDS = 2.0
_AWAY_SECONDS = 600.0


class PoolRunFailedError(ExpectedError, LookupError):
    """A run on a work pool ended without a result. The message names the run and quotes its message.

    Not worth another try by itself (tasks.support.retries): the run had its own retries.
    """


def on_pool(
    workspace: Workspace,
    deployment: str,
    key: str,
    kind: type[Result],
    parameters: Mapping[str, Any],
    *,
    name: str,
    tags: Sequence[str] = (),
) -> Result:
    """Return a deployment's result for a key: found in the store, awaited from a run in progress, or asked for.

    Args:
        deployment: e.g. "decode/decode"; its flow stores its result under the key in its parameter `result`.
        key: of `tasks.registry.results`: everything that the result depends on.
        name: name of the flow run.

    Raises:
        PoolRunFailedError: the run failed or was cancelled, or was lost with its worker CRASHES times.
        asyncio.CancelledError: the flow was interrupted; the run was cancelled if this flow had asked for it.
    """
    find: Callable[[], Result | None] = partial(results.find, workspace, key, kind)
    crashes = 0
    for attempt in count(1):
        if (found := _patiently(find)) is not None:
            return found
        # A key belongs to one run for good: after a run without a result, the next attempt gets a key of its own.
        ask = partial(
            run_deployment,
            deployment,
            parameters={**parameters, "result": key},
            idempotency_key=f"{key}#{attempt}",
            flow_run_name=name,
            tags=list(tags),
            timeout=0,
        )
        run: FlowRun = _patiently(ask)
        if run.state is not None and run.state.is_final():
            continue  # of an earlier time
        try:
            ended = _wait(run)
        except BaseException as error:
            if interrupts(error):
                _cancel(run)
            raise
        if ended.state is not None and ended.state.is_crashed() and (crashes := crashes + 1) < CRASHES:
            continue
        if (found := _patiently(find)) is not None:
            return found
        state = ended.state.name if ended.state else "without a state"
        reason = ended.state.message if ended.state else None
        raise PoolRunFailedError(f"run {ended.name!r} of {deployment} ended {state}: {reason or 'see its log'}")
    raise AssertionError("count() does not end")


@task(name="leave result", **PATIENT)
def leave(workspace: Workspace, key: str, result: BaseModel) -> None:
    """Store a result where `on_pool` finds it. The last step of work on a pool, which is then never done again."""
    results.put(workspace.open(), key, result)


def _wait(run: FlowRun) -> FlowRun:
    """Wait until a run has ended; return it as it is then."""
    with get_client(sync_client=True) as client:
        while run.state is None or not run.state.is_final():
            sleep(_POLL_SECONDS)
            run = _patiently(partial(client.read_flow_run, run.id))
    return run


def _cancel(run: FlowRun) -> None:
    """Cancel a run, unless another flow asked for it first."""
    with suppress(httpx.HTTPError, PrefectException), get_client(sync_client=True) as client:
        asked = client.read_task_run(run.parent_task_run_id) if run.parent_task_run_id else None
        if asked is not None and str(asked.flow_run_id) == runtime.flow_run.id:
            client.set_flow_run_state(run.id, Cancelling())


def _patiently(call: Callable[[], Any]) -> Any:
    """Return the answer to a repeatable request, waiting a while for an unreachable server."""
    first = time.monotonic()
    while True:
        try:
            return call()
        except (httpx.TransportError, StoreError, MlflowException) as error:
            if not is_transient(error) or time.monotonic() - first > _AWAY_SECONDS:
                raise
            sleep(_POLL_SECONDS)
