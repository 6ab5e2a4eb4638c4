"""Offer commands that make signed links, for people who approve promotions and for participants of a study."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.support.terminal import Commands, clear_errors

link_app = Commands(
    help="Signed links, which say who comes: each is a secret, for one person. RESPECT_LINK_KEY signs them.",
    no_args_is_help=True,
)


@link_app.command("approver")
def approver_command(
    name: Annotated[str, typer.Argument(help="Who approves, as the ledger will say.")],
    days: Annotated[float, typer.Option(min=0.01, max=366, help="How long the link opens the page.")] = 30,
    url: Annotated[str, typer.Option(help="Where the approvals page is.")] = "http://127.0.0.1:8070",
) -> None:
    """Print a link that signs somebody in at the approvals page."""
    with clear_errors():
        from deployments.web.people import approver_link

        typer.echo(approver_link(url, name, days, _key()))


@link_app.command("study")
def study_command(
    study: Annotated[str, typer.Argument(help="Name of the study, as in its file.")],
    participants: Annotated[list[str], typer.Argument(help="Participants' ids.")],
    days: Annotated[float, typer.Option(min=0.01, max=366, help="How long the links let somebody in.")] = 90,
    url: Annotated[str, typer.Option(help="Where the game is played.")] = "http://127.0.0.1:8080",
) -> None:
    """Print a link for each participant of a study, who comes as nobody else."""
    from deployments.game.domain.links import participant_link

    with clear_errors():
        key = _key()
        for participant in participants:
            typer.echo(participant_link(url, study, participant, days, key))


def _key() -> str:
    from respect_core.settings import SettingsError, link_key

    key = link_key()
    if key is None:
        raise SettingsError("set RESPECT_LINK_KEY to the key of the servers that links lead to; `openssl rand -hex 32`")
    return key
