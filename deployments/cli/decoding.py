"""`respect decode`, and `respect evaluate-decoder`, which measures a profile's decoder on labelled follow-ups."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import Progress
from rich.table import Table

from deployments.cli.options import On, build, options
from flows.parameters import DecodeParameters
from flows.support.terminal import Commands, Run, clear_errors, console, run_workspace, running
from respect_core.profiles import profile as named_profile

decoding_app = Commands()


@decoding_app.command("decode")
@options(DecodeParameters)
def decode_command(run: Run = "main", on: On = "here", **given: Any) -> None:
    """Decode the follow-ups of conversations that are over before a round does, for live evidence."""
    parameters, workspace = build(DecodeParameters, given), run_workspace(run)
    from flows.decode import decode as flow
    from tasks.compute.places import Place, require

    with clear_errors():
        require(Place(on))  # before Prefect starts
    with running():
        feedback = flow(workspace, parameters, on=Place(on))
    counts = feedback.decoders["ternary"]
    console.print(
        f"round {feedback.round}: {counts.negative:,} negative, {counts.neutral:,} neutral and {counts.positive:,} "
        "positive follow-ups",
        highlight=False,
    )


@decoding_app.command("evaluate-decoder")
def evaluate_decoder(
    rows: Annotated[
        Path,
        typer.Argument(exists=True, dir_okay=False, help="JSON lines with prompt, answer, followup and label."),
    ],
    profile: Annotated[str, typer.Option(help="Whose decoder to measure.")] = "chat",
    decoder: Annotated[
        str, typer.Option(help="Measure this one: a decoder's name, or openai:MODEL@URL. Empty: the profile's.")
    ] = "",
    out: Annotated[Path | None, typer.Option("--json", help="Also write the figures to this file.")] = None,
) -> None:
    """Compare decoded follow-ups with labels: negative, neutral or positive."""
    with clear_errors():
        from respect_core.feedback.decoder import FeedbackDecoder, named
        from respect_core.measuring import decoder_rows

        labelled = decoder_rows.read(rows)
        measured = FeedbackDecoder(named(decoder or named_profile(profile).feedback_decoder))
        with Progress(console=console, transient=True) as progress:
            task = progress.add_task("decode", total=None)
            figures = decoder_rows.evaluate(
                measured, labelled, lambda done, total: progress.update(task, completed=done, total=total)
            )
    table = Table("figure", "value", "95% interval", title=f"{measured.config.name} on {figures.turns:,} follow-ups")
    values = figures.to_json()
    for name, value in values.items():
        if name.endswith("_ci95"):
            continue
        low, high = values.get(f"{name}_ci95", (None, None))
        shown = "undefined" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.3f}"
        table.add_row(name.replace("_", " "), shown, "" if low is None else f"{low:.3f} to {high:.3f}")
    console.print(table)
    console.print(f"tokens: {measured.tokens:,}", highlight=False)
    if out is not None:
        out.write_text(json.dumps(values, indent=2) + "\n")
