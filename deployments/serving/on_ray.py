"""Run the policy server on Ray Serve: the same HTTP interface, over replicas that each hold a `PolicyServer`.

    Front (api.py)  ── session = game ──►  Policies: base model, adapters, keys and values, one pass at a time
                                               └─ first turn of a game here ──►  Games: the version that each began with

All turns of a game go to one replica, by consistent hashing of its id, so that its keys and values are there. Each
replica follows what is deployed by itself, and they may see a promotion seconds apart; thanks to `Games`, a game that
moves to another replica, because one was lost or added, keeps the version that it began with.
"""

from __future__ import annotations

import logging
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import ray
from fastapi import FastAPI
from ray import serve
from ray.exceptions import RayError
from ray.serve.config import RequestRouterConfig
from ray.serve.context import _get_global_client
from ray.serve.exceptions import BackPressureError, RayServeException
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import LoggingConfig

from deployments.serving.api import AnsweredError, create_app, respond
from deployments.serving.base import NotReadyError, Settings
from deployments.serving.follow import quick_registry
from deployments.serving.gathered import combine, exposition, gather
from deployments.serving.metrics import Metrics
from deployments.serving.schema import ActReply, ActRequest, Fits, Problem, Readiness
from deployments.serving.server import PolicyServer
from respect_core.acting.batcher import OverloadedError
from respect_core.acting.roster import Roster
from respect_core.errors import ExpectedError
from respect_core.settings import settings as variables
from tasks.compute.on_ray import connect
from tasks.support.workspace import Workspace

log = logging.getLogger(__name__)
APPLICATION = "respect"
"""Name of the Serve application."""
_PATIENCE = 10.0
"""Seconds to wait for answers of all replicas."""
_router: Any = RequestRouterConfig  # its types do not know that a class may be named
_BY_SESSION = _router(
    request_router_class="ray.serve.experimental.consistent_hash_router.ConsistentHashRouter",
    request_router_kwargs={"num_fallback_replicas": 0},
)


class PortTakenError(ExpectedError, ValueError):
    """The server cannot listen there; the message says what to do."""


_LONGER = 10
"""How many times longer the front remembers which version began a game than replicas keep it idle."""


class Games:
    """The version that each running game began with, in memory; one instance for all replicas.

    Args:
        settings: say when a game would be over at every replica, and is forgotten.
    """

    def __init__(self, settings: Settings) -> None:
        self._roster: Roster[str] = Roster(idle=settings.idle * _LONGER, most=settings.games)

    def begin(self, variant: str, game: str, version: str) -> str:
        """Return the version of a game; if the game is new, this one."""
        return self._roster.begin(variant, game, version)

    def end(self, variant: str, game: str) -> None:
        self._roster.end(variant, game)


class Policies:
    """A replica, with a device or core of its own, and one base model that its adapters share."""

    def __init__(self, workspace: Workspace, settings: Settings, games: DeploymentHandle) -> None:
        quick_registry()
        root = (variables().root or workspace.root).resolve()  # where this node keeps scratch
        self._games = games
        self._server = PolicyServer(workspace.model_copy(update={"root": root}), settings, self._began_with)
        self._server.start()
        self._server.follower.checked.wait()  # a replacement for a lost replica loads what is deployed first

    def __del__(self) -> None:  # Ray Serve's way to end a replica
        self._server.close()

    async def act(self, request: ActRequest) -> tuple[int, ActReply | Fits | Problem]:
        """Return the whole answer, even of an error: Ray would log its message, which may contain what a user wrote."""
        return await respond(self._server.act, request)

    async def check(self, request: ActRequest) -> tuple[int, ActReply | Fits | Problem]:
        """Check a request; the answer is as in `act`."""
        return await respond(self._server.check, request)

    def end(self, variant: str, game: str) -> None:
        self._server.end(variant, game)

    def readiness(self) -> Readiness:
        return self._server.readiness()

    def prometheus(self) -> tuple[str, str]:
        """Return the replica's name and its metrics."""
        return serve.get_replica_context().replica_tag, self._server.prometheus().decode()

    async def _began_with(self, variant: str, game: str, version: str) -> str:
        return str(await self._games.begin.remote(variant, game, version))


class Replicas:
    """The `Actor` of a front: its only state is its metrics, so there may be several."""

    def __init__(self) -> None:
        self.metrics = Metrics()

    def start(self) -> None:
        self._policies = serve.get_deployment_handle(Policies.__name__, APPLICATION)
        self._games = serve.get_deployment_handle(Games.__name__, APPLICATION)

    def close(self) -> None:
        """Do nothing: replicas end by themselves."""

    async def act(self, request: ActRequest) -> ActReply:
        """Do what `PolicyServer.act` does, but raise refusals as the replica words them."""
        reply: ActReply = await self._ask(request, "act")
        return reply

    async def check(self, request: ActRequest) -> Fits:
        """Do what `PolicyServer.check` does."""
        fits: Fits = await self._ask(request, "check")
        return fits

    async def _ask(self, request: ActRequest, method: str) -> Any:
        try:
            handle = self._of(request.variant, request.game)
            status, answer = await getattr(handle, method).remote(request)
        except BackPressureError:
            raise OverloadedError("too many requests are waiting") from None
        except (RayError, RayServeException) as error:
            log.error("a replica did not answer (%s)", type(error).__name__)
            raise NotReadyError("the replica that plays this game was lost; another takes over") from None
        if isinstance(answer, Problem):
            raise AnsweredError(status, answer)
        return answer

    def end(self, variant: str, game: str) -> None:
        for handle in (self._of(variant, game), self._games):
            with suppress(RayError, RayServeException, TimeoutError):  # a lost replica has forgotten the game
                handle.end.remote(variant, game).result(timeout_s=_PATIENCE)

    def readiness(self) -> Readiness:
        """Return what is true of all replicas."""
        answers = self._ask_all("readiness")
        states = [answer for answer in answers if isinstance(answer, Readiness)]
        readiness = combine(states)
        return readiness if len(states) == len(answers) else readiness.model_copy(update={"ready": False})

    def prometheus(self) -> bytes:
        """Return the metrics of all replicas, each under its name, and the count of this front's replies."""
        own = {metric.name: metric for metric in self.metrics.responses.collect()}
        texts = [answer for answer in self._ask_all("prometheus") if not isinstance(answer, Exception)]
        return exposition([*gather(texts, set(own)), *own.values()])

    def _of(self, variant: str, game: str) -> DeploymentHandle:
        return self._policies.options(session_id=f"{variant}/{game}")

    def _ask_all(self, method: str) -> list[Any]:
        """Return the answer of each replica, or the error of one that was lost."""
        responses = self._policies.broadcast(method)
        return list(responses.results(timeout_s=_PATIENCE, return_exceptions=True))


def front() -> FastAPI:
    """Build the HTTP interface in a replica of the front. Add a text scenario's route to `create_app`."""
    return create_app(Replicas())


def application(workspace: Workspace, settings: Settings, replicas: int) -> serve.Application:
    """Define the three deployments. Each replica of policies has a device, or a core if the cluster has no devices."""
    share = {"num_gpus": 1} if ray.cluster_resources().get("GPU") else {"num_cpus": 1}
    deployment: Any = serve.deployment  # its types do not know that it takes a class
    free = {"ray_actor_options": {"num_cpus": 0}, "max_ongoing_requests": settings.queue}
    games = deployment(Games, name=Games.__name__, **free).bind(settings)
    policies = deployment(
        Policies,
        name=Policies.__name__,
        num_replicas=replicas,
        ray_actor_options=share,
        max_ongoing_requests=settings.queue,  # the server itself gathers them into passes
        max_queued_requests=settings.queue,
        request_router_config=_BY_SESSION,
        graceful_shutdown_timeout_s=30.0,
    ).bind(workspace, settings, games)
    ingress: serve.Application = deployment(serve.ingress(front)(), name="Front", **free).bind(policies, games)
    return ingress


@contextmanager
def serving(workspace: Workspace, settings: Settings, *, replicas: int, host: str, port: int) -> Iterator[str]:
    """Serve on the cluster at RAY_ADDRESS, or on this machine's, and yield the address.

    At the end, pending requests are answered, logs go to the store, and Ray Serve ends too if it was started for this
    and has nothing else.

    Args:
        host: address to listen on; if Ray Serve is already running, its own is kept.
        port: likewise; 0 means any free port.

    Raises:
        NoClusterError: there is no cluster.
        PortTakenError: the server cannot listen there.
    """
    connect()
    started_serve = _get_global_client(raise_if_no_controller_running=False) is None
    quiet = LoggingConfig(enable_access_log=False)
    options = {"host": host, "port": _free(host, port) if started_serve else port}
    try:
        serve.start(http_options=options, logging_config=quiet)
        serve.run(application(workspace, settings, replicas), name=APPLICATION, route_prefix="/", logging_config=quiet)
        client: Any = _get_global_client()
        yield client.root_url  # nothing public says it
    finally:
        serve.delete(APPLICATION)
        if started_serve and not serve.status().applications:
            serve.shutdown()


def run(workspace: Workspace, settings: Settings, *, replicas: int, host: str, port: int) -> None:
    """Run `serving` until Ctrl-C or SIGTERM, which may come while it starts."""
    connect()  # sets a handler of its own for SIGTERM, which ends the process at once
    for ending in (signal.SIGTERM, signal.SIGINT):
        signal.signal(ending, signal.default_int_handler)
    with (
        suppress(KeyboardInterrupt),
        serving(workspace, settings, replicas=replicas, host=host, port=port) as address,
    ):
        log.info("%s replicas on Ray answer at %s", replicas, address)
        threading.Event().wait()


def _free(host: str, port: int) -> int:
    """Return the port, or any free one for 0. Check it first, because Ray Serve would keep to a port that is taken."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as Ray Serve, just after another server
        try:
            probe.bind((host, port))
        except OSError as error:
            raise PortTakenError(f"cannot listen on {host}:{port}: {error.strerror}; --port names another") from None
        return int(probe.getsockname()[1])
