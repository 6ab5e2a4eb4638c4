"""Run `respect approvals`: the page on which people approve promotions, until Ctrl-C or SIGTERM."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.support.terminal import Commands, Run, clear_errors, console, run_workspace, running

app = Commands(add_completion=False)


@app.command()
def approvals(
    run: Run = "main",
    host: Annotated[str, typer.Option(help="Address to listen on; put TLS in front of anything but this machine.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on.")] = 8070,
    secure: Annotated[bool, typer.Option(help="Behind TLS: cookies travel over TLS only.")] = False,
) -> None:
    """Serve the page on which people who signed in approve promotions (docs/promotion.md), until Ctrl-C."""
    run_workspace(run, new=True)
    import uvicorn

    from deployments import clients
    from deployments.approvals.app import create_approvals_app
    from deployments.web.people import people_from_environment

    with clear_errors():
        application = create_approvals_app(people_from_environment(secure))
    console.print(f"\nApprovals at [bold]http://{host}:{port}[/]; `respect link approver` makes links", highlight=False)
    with running():
        uvicorn.run(application, host=host, port=port, access_log=False, **clients.options())


if __name__ == "__main__":
    app()
