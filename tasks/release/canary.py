"""Look at canaries: from what users did to a decision, which the ledger carries out.

A look is recorded before the ledger's entry. If a process dies between the two, the next look finds the decision, and
carries it out; if it dies after the entry, the next operation settles the alias.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from prefect import task
from rich.console import Console

from respect_core.log.log import LOGS, RecordError, parse_record
from respect_core.log.records import InteractionLog, turn_rows
from respect_core.log.served_chats import ServedChat, days, read
from respect_core.profiles import PROFILES, Profile, profile
from respect_core.release import canary_looks, ledger
from respect_core.release.canary import Canary, Conversations, Decision, Plan, judge
from respect_core.release.canary_looks import CanaryLook
from respect_core.release.ledger import Entry
from respect_core.scenario import scenario
from respect_core.scenarios.chat.logs import interaction_id
from respect_core.store.base import Store
from respect_core.store.manifests import partitions_with
from respect_core.variants import Variant
from tasks.registry import deployed as deployment
from tasks.registry import registry
from tasks.release.contest import Contest, name_of
from tasks.support import progress
from tasks.support.files import write_whole
from tasks.support.interruption import sleep
from tasks.support.retries import PATIENT
from tasks.support.workspace import Workspace

_DAY = timedelta(days=1)
_TERNARY: Literal["ternary"] = "ternary"


class _Conversation(NamedTuple):
    began: str
    user: str
    candidate: bool
    good: float
    of: int


@task(name="plan canary", **PATIENT)
def plan_canary(contest: Contest, share: float, plan: Plan, most: int | None) -> Canary:
    """Return the canary of a contest's candidate, and say what it takes before anything acts.

    Args:
        most: conversations after which it ends; None for those that promote an equal candidate.
    """
    free_text = contest.profile in PROFILES and scenario(profile(contest.profile).scenario).free_text
    canary = Canary(
        candidate=name_of(contest.candidate),
        adapter_hash=contest.candidate.adapter_hash,
        profile=contest.profile,
        criterion="follow-ups" if free_text else "success",
        share=share,
        seed=secrets.token_hex(8),
        plan=plan,
        most=most or plan.promotes_equal(share),
    )
    harm, equal = plan.finds_harm(share), plan.promotes_equal(share)
    progress.say(
        f"a canary of {canary.candidate} at {share:.0%}: {harm:,} conversations, {round(harm * share):,} of them with "
        f"it, find with a power of {plan.power:.0%} that it is {plan.harm:.0%} worse; {equal:,} that it is no "
        f"worse by more than {plan.margin:.0%}, if it is equal; it ends after {canary.most:,} at the latest"
    )
    return canary


def in_force(workspace: Workspace) -> dict[Variant, Entry]:
    """Return the entries of the canaries in force, by variant."""
    store = workspace.open()
    found = {each: ledger.in_canary(ledger.entries(store, registry.model_name(each))) for each in Variant}
    return {variant: begun for variant, begun in found.items() if begun is not None}


@task(name="look at canary", task_run_name="look at canary of {variant}", **PATIENT)
def look_at_canary(workspace: Workspace, variant: Variant, begun: Entry) -> CanaryLook | None:
    """Look at a canary once, and carry out what is decided; return the look, or None if nothing is new since the last.

    Several processes may do so at the same time.
    """
    store = workspace.open()
    looks = canary_looks.read(store, begun.model)
    known = [each for each in looks if each.entry == begun.number]
    look = next((each for each in known if each.decision is not Decision.CONTINUE), None)  # but not carried out
    if look is None:
        look = _look(workspace, variant, begun, len(looks) + 1, known[-1] if known else None)
    if look is not None and (entry := look.ending(begun)) is not None:
        with suppress(ledger.LedgerError):  # somebody else ended it meanwhile, by this decision or by hand
            ledger.append(store, entry)
        deployment.settle(workspace, variant)
    return look


def _look(
    workspace: Workspace, variant: Variant, begun: Entry, number: int, last: CanaryLook | None
) -> CanaryLook | None:
    assert begun.canary is not None, "a canary's entry has it"
    store = workspace.open()
    fault = canary_looks.refused(store, begun) or _unfit(workspace, begun.canary)
    if fault:
        return canary_looks.record(store, begun, number, fault)
    found = conversations(workspace, variant, begun)
    judged = judge(begun.canary, found)
    if last is not None and judged.figures == last.figures:
        return None
    return canary_looks.record(store, begun, number, judged)


def _unfit(workspace: Workspace, canary: Canary) -> str:
    """Return why a candidate cannot be deployed; empty if it is what was examined."""
    try:
        version = registry.named(workspace, canary.candidate)
    except ValueError as error:
        return str(error).replace(workspace.tracking_uri, "the registry")
    registered = version.tags.get("adapter_hash")
    return "" if registered == canary.adapter_hash else f"{canary.candidate} has adapter {registered} now"


def conversations(workspace: Workspace, variant: Variant, begun: Entry) -> Conversations:
    """Return what became of the conversations that began during a canary, each version's by chance."""
    assert begun.canary is not None, "a canary's entry has it"
    store, start = workspace.open(), datetime.fromisoformat(begun.time)
    versions = {begun.to_version: False, begun.canary.candidate: True}
    if begun.canary.criterion == "success":
        read = _games(_logs(store, variant, start), versions)
    else:
        folder = workspace.scratch / "canary" / f"{begun.model}-{begun.number}.json"
        read = _chats(store, variant, start, versions, _Labels(folder, profile(begun.canary.profile)))
    found = sorted(each for each in read if datetime.fromisoformat(each.began) >= start)
    _, users = np.unique([each.user for each in found], return_inverse=True)
    return Conversations(
        users.astype(np.int64),
        np.array([each.candidate for each in found], dtype=bool),
        np.array([each.good for each in found], dtype=float),
        np.array([each.of for each in found], dtype=float),
    )


def _logs(store: Store, variant: Variant, start: datetime) -> Iterator[InteractionLog]:
    """Yield the interactions of a variant that were logged since a time, or a little earlier."""
    since = (start - _DAY).timestamp()  # the store's clock is another
    for partition in partitions_with(store, LOGS, ".jsonl", variants=[variant]):
        for key, entry in store.entries(partition.folder(LOGS)).items():
            if entry.modified >= since:
                with closing(store.open(key)) as file:
                    for line in file:
                        with suppress(RecordError):  # rounds report it
                            yield parse_record(line)


def _games(logs: Iterable[InteractionLog], versions: Mapping[str, bool]) -> Iterator[_Conversation]:
    """Yield games, but for those that the server stopped, which have no outcome."""
    for log in logs:
        candidate = versions.get(f"{log.policy.name}/{log.policy.version}")
        if candidate is not None and log.outcome is not None:
            yield _Conversation(log.started_at, log.user, candidate, float(log.outcome.success), 1)


def _chats(
    store: Store, variant: Variant, start: datetime, versions: Mapping[str, bool], labels: _Labels
) -> Iterator[_Conversation]:
    """Yield the conversations with gateways in which chance chose one of the versions, and their follow-ups so far."""
    first: dict[str, ServedChat] = {}
    parts: dict[str, list[str]] = {}  # the ids of the interactions that they are in the log
    day = f"{(start - _DAY).date()}"
    keys = [key for of, all_ in days(store).items() if of >= day for key in all_]
    for chat in read(store, keys):
        if chat.variant == variant and not chat.background and set(versions) <= set(chat.offered):
            earliest = first.setdefault(chat.conversation_id, chat)
            first[chat.conversation_id] = min(earliest, chat, key=lambda each: each.time)
            name = interaction_id(f"{chat.conversation_id}/{chat.id}")
            parts.setdefault(chat.conversation_id, []).append(name)
    signs = labels.read(_logs(store, variant, start), {name for names in parts.values() for name in names})
    for name, chat in first.items():
        said = [sign for part in parts[name] for sign in signs.get(part, ())]
        good = sum(sign >= 0 for sign in said)
        yield _Conversation(chat.time, chat.user, versions[chat.version], float(good), len(said))


class _Labels:
    """The decoded follow-ups of interactions, remembered on this machine: those in the log never change.

    Rounds decode them again, into their tables, with which this has nothing to do: a round may be under way.
    """

    def __init__(self, file: Path, profile: Profile) -> None:
        self._file, self._profile = file, profile

    def read(self, logs: Iterable[InteractionLog], wanted: Collection[str]) -> dict[str, list[int]]:
        """Return the labels of the wanted interactions, as far as they are in the log; decode what is new."""
        from respect_core.feedback import decoder

        config = decoder.named(self._profile.feedback_decoder)
        by = f"{config.name} {config.prompt(_TERNARY).hash()} {config.thresholds(_TERNARY)}"
        known: dict[str, list[int]] = {}
        with suppress(OSError, ValueError, KeyError):
            stored = json.loads(self._file.read_bytes())
            known = stored["labels"] if stored["by"] == by else {}
        new = [log for log in logs if log.interaction_id in wanted and log.interaction_id not in known]
        rows = [row for log in new for row in turn_rows(log)]
        known |= {log.interaction_id: [] for log in new}
        if any(row["follow_up"] for row in rows):
            with progress.bar("decode follow-ups") as bar:
                decoding = decoder.FeedbackDecoder(config)
                for row in decoding.decode(rows, (_TERNARY,), bar.update):
                    if row["marked"] is None:
                        known[row["interaction_id"]].append(row["label"])
        if new:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self._file, json.dumps({"by": by, "labels": known}))
        return known


def follow(
    workspace: Workspace, look: Callable[[], Sequence[CanaryLook]], console: Console, every: float | None
) -> None:
    """Look at the canaries in force and show what is found; with `every`, again after these seconds, until none is."""
    shown: dict[str, progress.Bar] = {}
    begun = {entry.model: entry for entry in in_force(workspace).values()}
    if not begun:
        console.print("no canary is in force; `respect promote VARIANT --canary 10%` begins one", highlight=False)
    while begun:
        made = look()
        for each in made:
            console.print(f"{each}", highlight=False, markup=False, soft_wrap=True)
            canary = begun[each.model].canary if each.model in begun else None
            if canary is not None and each.figures is not None:
                bar = shown.setdefault(each.model, progress.Bar(f"canary of {canary.candidate}", canary.most))
                note = f"({each.figures.candidate_conversations:,} with it; {each.figures.difference:+.1%})"
                bar.update(each.figures.conversations, canary.most, note)
        if not made:
            console.print("nothing new", highlight=False)
        begun = {entry.model: entry for entry in in_force(workspace).values()}
        if every is None:
            return
        if begun:
            sleep(every)
