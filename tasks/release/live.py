"""Compare two versions by what their users said next, in conversations that chance assigned to them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from prefect import task
from prefect.artifacts import create_table_artifact
from rich.console import Console
from rich.table import Table

from respect_core.log import forgetting
from respect_core.log.log import LOGS, read_logs
from respect_core.log.records import turn_rows
from respect_core.log.served_chats import interaction_id, read
from respect_core.measuring.follow_ups import POWER, Compared, Said, compare
from respect_core.profiles import Profile
from respect_core.store.manifests import partitions_with
from respect_core.variants import DecoderKind
from tasks.support import progress
from tasks.support.files import write_whole
from tasks.support.references import RegisteredRef
from tasks.support.workspace import Workspace


@task(name="compare live", persist_result=False)
def compare_live(
    workspace: Workspace, profile: Profile, policies: Sequence[RegisteredRef], effect: float
) -> dict[str, Any]:
    """Compare the follow-ups of two versions, in conversations that chance gave to one while both were on offer.

    Raises:
        ValueError: one of them has no follow-up yet.
    """
    versions = [f"{each.model}/{each.version}" for each in policies]
    sides = _said(workspace, profile, versions)
    compared = compare(*(said for said, _ in sides), conversations=(sides[0][1], sides[1][1]), effect=effect)
    if compared is None:
        without = [version for version, (said, _) in zip(versions, sides, strict=True) if not said]
        raise ValueError(
            f"no follow-up to {' or '.join(without)} in a conversation that chance assigned while both were on offer: "
            "serve them side by side with `respect serve --scenario chat`, ask for the model 'respect', and wait until "
            "conversations are over"
        )
    summary = {"versions": versions, **asdict(compared)}
    name = "-".join(version.replace("/", "-") for version in versions)
    write_whole(workspace.root / f"live-{name}.json", json.dumps(summary, indent=2) + "\n")
    rows = [dict(zip(("figure", *versions, "difference"), row, strict=True)) for row in _rows(compared)]
    create_table_artifact(key="live-comparison", table=rows, description=f"{versions[0]} and {versions[1]}")
    return summary | {"rows": _rows(compared)}


def _said(workspace: Workspace, profile: Profile, versions: Sequence[str]) -> list[tuple[list[Said], int]]:
    """Return, for each version, the decoded follow-ups in conversations that chance gave it, and how many these are."""
    from respect_core.feedback import decoder

    store = workspace.open()
    forgetting.finish(store)
    version_of: dict[str, str] = {}  # by interaction
    conversations: dict[str, set[str]] = {version: set() for version in versions}
    for chat in read(store):
        if chat.version in conversations and set(versions) <= set(chat.offered) and not chat.background:
            version_of[interaction_id(f"{chat.conversation_id}/{chat.id}")] = chat.version
            conversations[chat.version].add(chat.conversation_id)
    rows = [
        row
        for partition in partitions_with(store, LOGS, ".jsonl")
        for key in store.keys(partition.folder(LOGS))
        for log in read_logs(store, key)
        if log.interaction_id in version_of
        for row in turn_rows(log)
    ]
    said: dict[str, list[Said]] = {version: [] for version in versions}
    if any(row["follow_up"] for row in rows):
        users = {row["interaction_id"]: row["user"] for row in rows}
        with progress.bar("decode follow-ups") as bar:
            decoding = decoder.FeedbackDecoder(decoder.named(profile.feedback_decoder))
            for row in decoding.decode(rows, (DecoderKind.TERNARY.value,), bar.update):
                if row["marked"] is None:
                    name = row["interaction_id"]
                    said[version_of[name]].append(Said(users[name], row["label"]))
    return [(said[version], len(conversations[version])) for version in versions]


def _rows(compared: Compared) -> list[tuple[str, ...]]:
    def share(estimate: Any, form: str = ".1%") -> str:
        return f"{estimate.value:{form}} [{estimate.low:{form}}, {estimate.high:{form}}]"

    sides = (compared.first, compared.second)
    return [
        (
            "negative follow-ups",
            *(share(each.negative_follow_ups) for each in sides),
            share(compared.negative_difference, "+.1%"),
        ),
        (
            "positive follow-ups",
            *(share(each.positive_follow_ups) for each in sides),
            share(compared.positive_difference, "+.1%"),
        ),
        ("follow-ups", *(f"{each.turns:,}" for each in sides), ""),
        ("users", *(f"{each.users:,}" for each in sides), ""),
        ("conversations", *(f"{each:,}" for each in compared.conversations), ""),
    ]


def show(summary: Mapping[str, Any], console: Console) -> None:
    """Show the comparison on the terminal."""
    title = "What users said next, in conversations that chance assigned; 95% intervals by user"
    table = Table("figure", *summary["versions"], "difference", title=title)
    for row in summary["rows"]:
        table.add_row(*(cell.replace(" [", "\n[") for cell in row))
    console.print(table)
    needed, effect = summary["needed"], summary["effect"]
    if needed is not None:
        console.print(
            f"- a difference of {effect:.0%} in negative follow-ups is found with {POWER:.0%} power after {needed:,} "
            "conversations of each version, if they vary as these do",
            highlight=False,
        )
