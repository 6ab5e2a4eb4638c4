"""`respect talk` and `respect vllm`: simulated users for a gateway, and the vLLM server that writes for it."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from flows.support.terminal import Commands, clear_errors, console

talking_app = Commands()


@talking_app.command("talk")
def talk_command(
    url: Annotated[str, typer.Argument(help="Address of the gateway.")] = "http://127.0.0.1:8000",
    scenario: Annotated[str, typer.Option(help="Whose simulated users talk.")] = "home",
    conversations: Annotated[int, typer.Option(min=1, help="Conversations in all.")] = 40,
    at_once: Annotated[int, typer.Option(min=1, max=256, help="Conversations that run in parallel.")] = 8,
    seed: Annotated[int, typer.Option(min=0, help="Seed of what users want, and of how they say it.")] = 0,
    model: Annotated[str, typer.Option(help="'respect', or 'respect.b-fft' to choose a variant.")] = "respect",
) -> None:
    """Let simulated users talk to a gateway; what they say goes into the next round. The key is OPENAI_API_KEY."""
    from deployments.serving.gateway.users import talk
    from tasks.support import progress

    with clear_errors(), progress.shown(), progress.bar("talk", conversations) as bar:
        talked = talk(url, scenario, conversations, seed, at_once=at_once, model=model, progress=bar.update)
    table = Table("version", "conversations", "finished", title="What simulated users got")
    for version, count in sorted(talked.conversations.items()):
        table.add_row(version, f"{count:,}", f"{talked.finished[version] / count:.1%}")
    console.print(table)


@talking_app.command("vllm")
def vllm_command(
    profile: Annotated[str, typer.Option(help="Whose base model it serves.")] = "chat",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8001,
    python: Annotated[str, typer.Option(help="Python of the environment that has vLLM.")] = "python",
) -> None:
    """Print the command that starts a vLLM server for `respect serve --vllm`."""
    import shlex

    from respect_core.profiles import profile as named

    with clear_errors():
        from deployments.serving.gateway.vllm import command

        typer.echo(shlex.join(command(named(profile), port, python)))
