"""Run `respect serve`: the policy server or the gateway, until Ctrl-C or SIGTERM."""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from flows.support.terminal import Commands, Run, clear_errors, run_workspace
from respect_core.errors import extra
from respect_core.scenario import scenario as plugged
from respect_core.variants import ACTING, DEPLOYABLE

if TYPE_CHECKING:  # it reads settings, which takes a while to import
    from tasks.support.workspace import Workspace

app = Commands(add_completion=False)


@app.command()
def serve(
    run: Run = "main",
    scenario: Annotated[
        str,
        typer.Option(help="multiref: turns of games. chat, home: conversations, over OpenAI's API (docs/gateway.md)."),
    ] = "multiref",
    variants: Annotated[str, typer.Option(help="Comma-separated variants and 'control', or 'all'.")] = "all",
    host: Annotated[
        str,
        typer.Option(help="Address to listen on. Without RESPECT_GATEWAY_KEYS, keep it where you trust everybody."),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on.")] = 8000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of draws, for requests that give none.")] = 0,
    temperature: Annotated[
        float, typer.Option(min=0, help="Sampling temperature; 0 takes the most probable action.")
    ] = 1.0,
    most: Annotated[int, typer.Option(min=1, help="Turns in one pass.")] = 64,
    wait_ms: Annotated[float, typer.Option(min=0, help="How long a pass waits for more turns.")] = 4.0,
    cache_mb: Annotated[int, typer.Option(min=0, help="Memory for keys and values of games, for each version.")] = 1024,
    idle: Annotated[float, typer.Option(min=1, help="Seconds until a game without turns counts as over.")] = 1800.0,
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between checks of what is deployed.")] = 3.0,
    on: Annotated[Literal["here", "ray"], typer.Option(help="This process, or replicas on a Ray cluster.")] = "here",
    replicas: Annotated[int, typer.Option(min=1, help="On Ray: servers, each with a device or core.")] = 1,
    shares: Annotated[
        str, typer.Option(help="Of new conversations, by variant, as 'b-fft=3,control=1'; equal without it.")
    ] = "",
    redact: Annotated[bool, typer.Option(help="Mask personal data in the log of conversations.")] = True,
    consent: Annotated[
        str | None,
        typer.Option(help="Of conversations: log those of users who agreed to the text of this version alone."),
    ] = None,
    vllm: Annotated[
        str | None, typer.Option(help="Address of a vLLM server that writes the replies; `respect vllm` starts one.")
    ] = None,
    evidence_every: Annotated[
        float, typer.Option(min=1, help="Of conversations: seconds between two computations of live evidence.")
    ] = 60.0,
    secure: Annotated[bool, typer.Option(help="Behind TLS: the operator's cookie travels over TLS only.")] = False,
) -> None:
    """Answer users with what is deployed (docs/serving.md)."""
    workspace = run_workspace(run)
    with clear_errors(), extra("serve"):
        import uvicorn

        from deployments import clients
        from deployments.serving.api import create_app
        from deployments.serving.base import Settings
        from deployments.serving.follow import quick_registry
        from deployments.serving.server import PolicyServer

    quick_registry()

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    with clear_errors():
        given: dict[str, Any] = {
            "variants": _variants(variants),
            "seed": seed,
            "temperature": temperature,
            "most": most,
            "wait": wait_ms / 1000,
            "cache_bytes": cache_mb << 20,
            "idle": idle,
            "every": every,
        }
        if plugged(scenario).free_text:
            given |= {"shares": _shares(shares), "redact": redact, "consent": consent}
            return _serve_chats(workspace, given, vllm, host, port, evidence_every, secure)
        configured = Settings(**given)
        if on == "ray":
            from tasks.compute import places

            places.require(places.Place.RAY)
            from deployments.serving import on_ray

            return on_ray.run(workspace, configured, replicas=replicas, host=host, port=port)
        server = create_app(PolicyServer(workspace, configured))
        caps = clients.Caps(share=0.5)  # a game server asks for all of its players from one address
        uvicorn.run(server, host=host, port=port, access_log=False, **clients.options(caps))


def _serve_chats(
    workspace: Workspace,
    given: Mapping[str, Any],
    vllm: str | None,
    host: str,
    port: int,
    evidence_every: float,
    secure: bool,
) -> None:
    """Serve conversations. Raises BadParameter for an address that others reach, without keys."""
    import uvicorn

    from deployments import clients
    from deployments.serving.gateway import operator
    from deployments.serving.gateway.app import create_app
    from deployments.serving.gateway.engine import InProcess
    from deployments.serving.gateway.gateway import Gateway, Settings
    from deployments.serving.gateway.live import Live
    from deployments.serving.gateway.vllm import Vllm
    from flows.support.guard import Guard
    from respect_core.log import user_key
    from respect_core.settings import named_tokens, operator_token, settings
    from respect_core.store.base import StoreError

    known = named_tokens("RESPECT_GATEWAY_KEYS", settings().gateway_keys)
    if not known and not _is_loopback(host):
        raise typer.BadParameter(f"{host} is reached by others: set RESPECT_GATEWAY_KEYS, or listen on 127.0.0.1")
    with suppress(StoreError):  # while it is unreachable; the first conversation asks again
        user_key.claim(workspace.open())
    configured = Settings(**given)
    engine = Vllm(workspace, configured, vllm) if vllm else InProcess(workspace, configured)
    gateway = Gateway[Any](workspace, configured, engine)
    live, token = Live(workspace.open(), gateway.on_offer, evidence_every), operator_token()
    served = create_app(gateway, known, live, operator.Settings(token, secure=secure) if token else None)
    app = served if known else Guard(served)  # a web page must not talk in a user's name
    uvicorn.run(app, host=host, port=port, access_log=False, **clients.options(clients.Caps(share=0.5)))


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name, which may be anybody's
        return False


def _shares(named: str) -> dict[str, int]:
    shares = {}
    for each in filter(None, map(str.strip, named.split(","))):
        variant, _, share = each.partition("=")
        if not share.isdigit():
            raise typer.BadParameter(f"--shares: {each!r}; write them as 'b-fft=3,control=1'")
        shares[_variants(variant)[0]] = int(share)
    return shares


def _variants(names: str) -> tuple[str, ...]:
    named = ACTING if names == "all" else tuple(name.strip() for name in names.split(","))
    if unknown := sorted(set(named) - set(DEPLOYABLE)):
        raise typer.BadParameter(f"no variant {', '.join(unknown)}; there are: {', '.join(DEPLOYABLE)}, or 'all'")
    return named


if __name__ == "__main__":
    app(prog_name="respect serve")
