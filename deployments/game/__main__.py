"""Run `respect play`: the game in the browser, until Ctrl-C or SIGTERM (docs/game.md)."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.support.terminal import Commands, Run, clear_errors, console, run_workspace, warn_of_public_key
from respect_core.errors import extra

if TYPE_CHECKING:
    from deployments.game.domain.study import Study
    from deployments.game.engine.listener import Listener
    from tasks.support.workspace import Workspace

app = Commands(add_completion=False)


@app.command()
def play(
    run: Run = "main",
    study: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="A study's file (docs/game.md). Default: free play."),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; put TLS in front of anything but this machine.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on.")] = 8080,
    policies: Annotated[
        str | None, typer.Option(help="URL of a policy server (`respect serve`); by default they act in this process.")
    ] = None,
    variants: Annotated[str, typer.Option(help="Comma-separated variants that act here, outside a study.")] = "b-fft",
    round: Annotated[
        int | None, typer.Option(min=0, help="Round of the games outside a study. Default: what the registry says.")
    ] = None,
    proxy: Annotated[
        str, typer.Option(help="Addresses of TLS proxies whose X-Forwarded-For and -Proto are believed.")
    ] = "127.0.0.1",
    origin: Annotated[
        list[str] | None, typer.Option(help="Origin allowed besides the page's own; may be repeated.")
    ] = None,
    secure: Annotated[bool, typer.Option(help="Behind TLS: cookies travel over TLS only.")] = False,
    faster: Annotated[float, typer.Option(min=0.01, help="Speed up all clocks by this factor, for tests.")] = 1.0,
    prepare: Annotated[bool, typer.Option(help="Without any registered policy: register the base, train the seed.")] = (
        True
    ),
) -> None:
    """Let people play in a browser; their games are in the next `respect round` (docs/game.md)."""
    workspace = run_workspace(run, new=True)
    with clear_errors(), extra("game"):
        import shapely  # noqa: F401  # for the contexts of games, later
        import uvicorn

        from deployments import clients
        from deployments.game.domain.protocol import LARGEST_MESSAGE
        from deployments.game.domain.table import Clocks
        from deployments.game.durability.journal import Journal
        from deployments.game.engine import first_policy
        from deployments.game.engine.rooms import Rooms
        from deployments.game.engine.settings import Settings, tokens_from_environment
        from deployments.game.web.app import create_app
        from deployments.serving.follow import quick_registry
        from respect_core.log import user_key
        from respect_core.log.pseudonyms import pseudonyms_are_secret
        from respect_core.settings import SettingsError, link_key

    quick_registry()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    with clear_errors():
        (user_key.claim if pseudonyms_are_secret() else user_key.require)(workspace.open())
        loaded = _study(workspace, study)
        if loaded is not None:
            warn_of_public_key()
            if loaded.file.participants == "signed" and link_key() is None:
                raise SettingsError(f'{study}: participants are signed: set RESPECT_LINK_KEY, or say "open"')
        operator, annotators = tokens_from_environment()
        settings = Settings(
            clocks=Clocks().faster(faster),
            secure=secure,
            origins=tuple(origin or ()),
            round=round,
            link_key=link_key(),
            operator_token=operator,
            annotator_tokens=annotators,
        )
        journal = Journal(workspace.root / "game")
        if prepare and policies is None:
            first_policy.provide(workspace, run)
        rooms = Rooms(workspace, settings, listener(workspace, policies, loaded, variants), loaded, journal)
        console.print(f"\nPlay at [bold]http://{host}:{port}[/]; Ctrl-C ends it\n", highlight=False)
        uvicorn.run(
            create_app(rooms),
            host=host,
            port=port,
            access_log=False,
            ws_max_size=LARGEST_MESSAGE,
            ws_per_message_deflate=False,  # states are small; it costs more time than the rest of a message
            forwarded_allow_ips=proxy,
            timeout_graceful_shutdown=5,
            **clients.options(proxies=proxy),
        )


def _study(workspace: Workspace, path: Path | None) -> Study | None:
    from deployments.game.domain import contexts
    from deployments.game.domain.study import Study, load

    if path is None:
        return None
    file = load(path)
    return Study(file, contexts.of_study(workspace.open(), file.contexts))


def listener(workspace: Workspace, url: str | None, study: Study | None, variants: str) -> Listener:
    """Make the listener: a study's policies or these variants in this process, or those served at a URL."""
    from deployments.game.engine.listener import InProcess, Remote
    from deployments.serving.base import Settings
    from deployments.serving.server import PolicyServer
    from respect_core.variants import DEPLOYABLE, HH

    named = study.file.policies if study else [name.strip() for name in variants.split(",")]
    acting = tuple(variant for variant in named if variant != HH)
    if unknown := sorted(set(acting) - set(DEPLOYABLE)):
        raise ValueError(f"no variant {', '.join(unknown)}; there are: {', '.join(DEPLOYABLE)}")
    if url is not None:
        return Remote(url, required=acting if study else ())
    return InProcess(PolicyServer(workspace, Settings(variants=acting)))


if __name__ == "__main__":
    app(prog_name="respect play")
