"""Offer `respect quarantine`: who is left out of training, and why; and how they are let in again."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.support.terminal import Commands, Run, clear_errors, console, run_workspace

quarantine_app = Commands()


@quarantine_app.command("quarantine")
def quarantine_command(
    release: Annotated[str | None, typer.Option(help="Pseudonym of a user who is to teach again.")] = None,
    actor: Annotated[str, typer.Option(help="Who asks. Default: the account that runs it.")] = "",
    reason: Annotated[str, typer.Option(help="Why.")] = "",
    run: Run = "main",
) -> None:
    """List users who are left out of training, each with the reason, or release one."""
    workspace = run_workspace(run)
    from respect_core.release.approvals import account
    from respect_core.training_data import quarantine

    with clear_errors():
        store = workspace.open()
        if release is not None:
            console.print(f"{quarantine.release(store, release, actor or account(), reason)}", markup=False)
            return
        records = quarantine.read(store)
    for record in records:
        console.print(f"{record}", highlight=False, markup=False, soft_wrap=True)
    if not records:
        console.print("nobody is left out")
