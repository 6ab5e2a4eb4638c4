"""Work sent to a pool, on a real server: what is lost is asked for again, and one key is worked at once.

The pool's worker is a thread that does with each run what the test says: runs its flow, or sets the state in which it
ends, as the server does when a process is gone. tests/stack kills real ones.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.sorting import FlowRunSort
from prefect.flow_engine import run_flow
from prefect.states import Cancelled, Crashed, Failed, State

from flows.dispatch import pools
from flows.dispatch.pools import CRASHES, PoolRunFailedError, leave, on_pool
from tasks.registry import results
from tasks.support.references import PropensityRef
from tasks.support.workspace import Workspace, workspace

pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("prefect_server")]

LOST = "the machine is gone"

Act = Callable[[FlowRun], object]


@flow
def work(place: Workspace, variant: str, result: str) -> None:
    leave(place, result, _result(variant))


def _result(variant: str) -> PropensityRef:
    return PropensityRef(round=0, variant=variant, source="surrogate", key="propensities/a.json")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.delenv("RESPECT_STORE", raising=False)
    monkeypatch.setattr(pools, "_POLL_SECONDS", 0.1)
    return workspace(tmp_path)


class Pool:
    """A deployment of `work`, and what becomes of its runs."""

    def __init__(self, client: SyncPrefectClient) -> None:
        self.client = client
        self.key = f"results/work/{uuid4().hex}.json"  # the server knows the keys of all runs of the flow
        self.deployment = client.create_deployment(client.create_flow(work), "work")

    def runs(self) -> list[FlowRun]:
        """The oldest first."""
        chosen = DeploymentFilter(id=DeploymentFilterId(any_=[self.deployment]))
        return self.client.read_flow_runs(deployment_filter=chosen, sort=FlowRunSort.EXPECTED_START_TIME_ASC)

    @contextmanager
    def worker(self, *acts: Act) -> Iterator[None]:
        """One that takes a run for each act, and none besides."""
        done: set[UUID] = set()
        stopped = threading.Event()

        def take() -> None:
            for act in acts:
                while not (new := [run for run in self.runs() if run.id not in done and not _has_ended(run)]):
                    if stopped.wait(0.1):
                        return
                done.add(new[0].id)
                act(new[0])

        with ThreadPoolExecutor(1) as thread:
            taken = thread.submit(contextvars.copy_context().run, take)
            try:
                yield
            finally:
                stopped.set()
                taken.result()

    def ask(self, place: Workspace, variant: str = "seed") -> PropensityRef:
        parameters = {"place": place.model_dump(mode="json"), "variant": variant}
        return on_pool(place, "work/work", self.key, PropensityRef, parameters, name="work on a")

    def ends(self, state: State) -> Act:
        """The run gets a state from elsewhere."""
        return lambda run: self.client.set_flow_run_state(run.id, state)

    def is_done(self, run: FlowRun) -> None:
        run_flow(work, flow_run=run)


def _has_ended(run: FlowRun) -> bool:
    return run.state is not None and run.state.is_final()


@pytest.fixture
def pool(prefect_server: None, place: Workspace) -> Iterator[Pool]:
    with get_client(sync_client=True) as client:
        made = Pool(client)
        yield made
        client.delete_deployment(made.deployment)


def test_a_run_that_was_lost_is_asked_for_again(pool: Pool, place: Workspace) -> None:
    with pool.worker(pool.ends(Crashed(message=LOST)), pool.is_done):
        assert pool.ask(place) == _result("seed")
    lost, second = pool.runs()
    assert lost.state is not None and lost.state.is_crashed()
    assert second.state is not None and second.state.is_completed()
    assert pool.ask(place, "another") == _result("seed")  # it is there
    assert len(pool.runs()) == 2


def test_a_run_that_is_lost_each_time_is_given_up_until_somebody_asks_anew(pool: Pool, place: Workspace) -> None:
    lost = pool.ends(Crashed(message=LOST))
    with (
        pool.worker(*[lost] * (CRASHES + 1)),
        pytest.raises(PoolRunFailedError, match=f"'work on a' of work/work ended Crashed: {LOST}"),
    ):
        pool.ask(place)
    assert len(pool.runs()) == CRASHES
    with pool.worker(lost, pool.is_done):
        assert pool.ask(place) == _result("seed")
    assert len(pool.runs()) == CRASHES + 2


@pytest.mark.parametrize("before", range(CRASHES))
def test_what_was_left_before_the_end_counts_however_the_run_ends(pool: Pool, place: Workspace, before: int) -> None:
    def left(run: FlowRun) -> None:
        results.put(place.open(), pool.key, _result("seed"))
        pool.client.set_flow_run_state(run.id, Crashed(message=LOST))

    with pool.worker(*[pool.ends(Crashed(message=LOST))] * before, left, pool.is_done):
        assert pool.ask(place) == _result("seed")
    assert len(pool.runs()) == before + 1


@pytest.mark.parametrize("state", [Failed(message="no such game set"), Cancelled(message="not now")])
def test_a_run_that_failed_is_not_asked_for_again_by_itself(pool: Pool, place: Workspace, state: State) -> None:
    with (
        pool.worker(pool.ends(state), pool.is_done),
        pytest.raises(PoolRunFailedError, match=f"{state.name}: {state.message}"),
    ):
        pool.ask(place)
    assert len(pool.runs()) == 1
    with pool.worker(pool.is_done):
        assert pool.ask(place) == _result("seed")


@pytest.fixture
def both(pool: Pool, place: Workspace, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Future[PropensityRef]]]:
    """Two that ask for one key, when both have been told of a run."""
    told = threading.Semaphore(0)
    made = pools.run_deployment

    def telling(*arguments: Any, **options: Any) -> Any:
        run = made(*arguments, **options)
        told.release()
        return run

    monkeypatch.setattr(pools, "run_deployment", telling)
    with ThreadPoolExecutor(2) as pair:
        asking = [
            pair.submit(contextvars.copy_context().run, pool.ask, place, variant) for variant in ("b-fft", "b-kto")
        ]
        try:
            assert told.acquire(timeout=60) and told.acquire(timeout=60)
            assert len(pool.runs()) == 1
            yield asking
        finally:
            while not all(each.done() for each in asking):  # where the test has failed
                for run in pool.runs():
                    pool.client.set_flow_run_state(run.id, Cancelled())


def test_two_that_ask_for_one_key_share_its_runs(pool: Pool, both: list[Future[PropensityRef]]) -> None:
    """Also the run behind one that was lost. What the run was asked for first is what both get."""
    with pool.worker(pool.ends(Crashed(message=LOST)), pool.is_done):
        first, second = (each.result() for each in both)
    assert first == second and first.variant in ("b-fft", "b-kto")
    assert [run.idempotency_key for run in pool.runs()] == [f"{pool.key}#1", f"{pool.key}#2"]


def test_two_that_ask_for_one_key_hear_both_that_it_failed(pool: Pool, both: list[Future[PropensityRef]]) -> None:
    with pool.worker(pool.ends(Failed(message="no such game set"))):
        for each in both:
            with pytest.raises(PoolRunFailedError, match="no such game set"):
                each.result()
    assert len(pool.runs()) == 1


@flow
def asking(place: Workspace, key: str) -> None:
    on_pool(place, "work/work", key, PropensityRef, {}, name="work on a")


@pytest.mark.parametrize("first", [True, False], ids=["first", "second"])
def test_who_is_interrupted_cancels_what_nobody_else_asked_for(
    pool: Pool, place: Workspace, monkeypatch: pytest.MonkeyPatch, first: bool
) -> None:
    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    if not first:
        pool.client.create_flow_run_from_deployment(pool.deployment, idempotency_key=f"{pool.key}#1")
    monkeypatch.setattr(pools, "sleep", interrupt)
    with pytest.raises(KeyboardInterrupt):
        asking(place, pool.key)
    (run,) = pool.runs()
    assert run.state is not None
    assert (run.state.is_cancelled() or run.state.is_cancelling()) is first, run.state
