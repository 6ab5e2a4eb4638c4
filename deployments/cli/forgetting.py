"""Offer `respect forget`: erase a user, one interaction, or what is old, and learn again without it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from flows.support.terminal import Commands, Run, clear_errors, console, run_workspace, running

if TYPE_CHECKING:
    from respect_core.log.forgetting import Receipt

forgetting_app = Commands()
_INCOMPLETE = 3


@forgetting_app.command("forget")
def forget_command(
    user: Annotated[
        str | None,
        typer.Argument(help="The user's own id, which is stored nowhere; '-' reads it from standard input."),
    ] = None,
    pseudonym: Annotated[str | None, typer.Option(help="The user's pseudonym, as logs have it.")] = None,
    conversation: Annotated[
        str | None, typer.Option(help="The id of one interaction, or of one conversation with a gateway.")
    ] = None,
    older_than: Annotated[
        str | None, typer.Option(help="Forget what ended so many days ago, e.g. 90d; versions stay as they are.")
    ] = None,
    retrain: Annotated[
        bool, typer.Option("--retrain", help="Then learn again without it: clean versions become candidates.")
    ] = False,
    run: Run = "main",
) -> None:
    """Erase what a user wrote, wherever it is. Run again, it completes what was interrupted. See docs/forgetting.md."""
    given = [each for each in (user, pseudonym, conversation, older_than) if each is not None]
    if len(given) > 1 or not (given or retrain):
        raise typer.BadParameter("give a user, --pseudonym, --conversation or --older-than, and only one of them")
    workspace = run_workspace(run)
    from deployments.game.durability.forgotten import JournalLines
    from respect_core.log import forgetting, user_key
    from respect_core.log.pseudonyms import pseudonym as pseudonym_of
    from tasks.release import forget

    incomplete = False
    with clear_errors():
        store = workspace.open()
        if given:
            if user is not None:
                user_key.require(store)
                wanted = forgetting.user(pseudonym_of(sys.stdin.readline().strip() if user == "-" else user))
            elif pseudonym is not None:
                wanted = forgetting.user(pseudonym)
            elif conversation is not None:
                wanted = forgetting.interaction(store, conversation)
            else:
                wanted = forgetting.older_than(str(older_than))
            receipt = forget.forget(workspace, wanted, [JournalLines(workspace.root / "game")])
            _show(receipt)
            incomplete = bool(receipt.left)
        for version, what in forget.in_front_of_users(workspace).items():
            console.print(f"[bold yellow]{version}[/] {what}", highlight=False, soft_wrap=True)
    if retrain:
        from flows.forget import retrain as flow

        with running():
            for summary in flow(workspace):
                made = ", ".join(f"{each['model']}/{each['version']}" for each in summary["variants"].values())
                console.print(f"round {summary['round']} again: {made}", highlight=False)
    if incomplete:
        raise typer.Exit(_INCOMPLETE)


def _show(receipt: Receipt) -> None:
    forgotten = receipt.tombstone
    who = forgotten.user or forgotten.name or "what is old"
    table = Table(
        "place", "records", "rewritten", "deleted", title=f"Forgotten: {who}, begun before {forgotten.before}"
    )
    for name, each in receipt.places.items():
        if each.records or name in receipt.left:
            table.add_row(name, f"{each.records:,}", f"{len(each.rewritten):,}", f"{len(each.dropped):,}")
    console.print(table)
    console.print(
        f"{len(forgotten.interactions):,} interactions, {len(forgotten.conversations):,} conversations with gateways; "
        f"receipt: {receipt.key}",
        highlight=False,
        soft_wrap=True,
    )
    for name, what in receipt.left.items():
        console.print(f"[bold red]{name}[/]: {what}", highlight=False, soft_wrap=True)
    for version in receipt.tainted:
        console.print(f"{version} learned from it, and is not promoted any more", highlight=False)
