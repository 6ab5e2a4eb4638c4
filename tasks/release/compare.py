"""Compare two registered versions on the same held-out prompts: likelihoods of replies, and a judge's verdicts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from mlflow.entities.model_registry import ModelVersion
from prefect import task
from prefect.artifacts import create_table_artifact
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from respect_core.interaction import TurnKey, waiting
from respect_core.log.records import from_log, turn_rows
from respect_core.measuring import duel
from respect_core.measuring.duel import Judged, Scored
from respect_core.measuring.labels import right_turns
from respect_core.model.endpoint import Endpoint, EndpointError
from respect_core.profiles import Profile
from respect_core.scenario import scenario
from respect_core.training_data import curated
from respect_core.variants import SEED, DecoderKind, Variant
from tasks.compute import process
from tasks.compute.specs import CompareSpec
from tasks.registry import registry
from tasks.registry.register import reference
from tasks.release.evaluate import require_unseen
from tasks.support import progress
from tasks.support.files import write_whole
from tasks.support.references import MeasuredRef, RegisteredRef, TasteRef
from tasks.support.workspace import Workspace

_ANSWER_TOKENS = 8


def pair(workspace: Workspace, names: Sequence[str], game_set: str | None = None) -> list[RegisteredRef]:
    """Return the two versions: `respect.b-fft/3`, a variant for its newest candidate, or `seed`.

    Args:
        game_set: that they are compared on, if any.

    Raises:
        ValueError: no such version, the same one twice, no such set, or a version that learned from the set.
    """
    versions = [_version(workspace, name) for name in names]
    if len({(version.name, version.version) for version in versions}) < len(versions):
        raise ValueError(f"{names[0]} and {names[1]} are the same version: name another one")
    if game_set is not None:
        for version in versions:
            require_unseen(workspace, f"{version.name}/{version.version}", game_set)
    return [reference(name, version) for name, version in zip(names, versions, strict=True)]


def _version(workspace: Workspace, name: str) -> ModelVersion:
    if "/" in name:
        return registry.named(workspace, name)
    if name not in (SEED, *Variant):
        known = ", ".join((SEED, *Variant))
        raise ValueError(f"{name!r} is no version, such as respect.b-fft/3, and no policy; those are: {known}")
    newest = registry.latest(workspace, name)
    if newest is None:
        raise ValueError(f"no version of {name} is registered in {workspace.tracking_uri}: run a round first")
    return newest


@task(name="taste", persist_result=False)
def taste(workspace: Workspace, profile: Profile, game_set: str) -> TasteRef:
    """Find which replies of a game set users liked and disliked.

    Liked are the curated replies. Disliked are others with the user's thumb down, or with a follow-up that the
    profile's decoder takes for negative.
    """
    from respect_core.feedback import decoder

    store = workspace.open()
    logs, stored = curated.read(store, game_set), curated.stored(store, game_set)
    right = right_turns(logs)
    if not right:
        raise ValueError(f"no reply of {game_set!r} is known to be right: there is nothing to compare on")
    rows = [row for log in logs for row in turn_rows(log)]
    down = {(row["interaction_id"], row["turn"]) for row in rows if row["explicit"] == -1} - right
    others = {(row["interaction_id"], row["turn"]) for row in rows if row["follow_up"]} - right - down
    complaints = set[TurnKey]()
    if others:
        games = {name for name, _ in others}
        with progress.bar("decode follow-ups") as bar:
            decoding = decoder.FeedbackDecoder(decoder.named(profile.feedback_decoder))
            whole = [row for row in rows if row["interaction_id"] in games]  # the decoder reads what came before
            decoded = decoding.decode(whole, (DecoderKind.TERNARY.value,), bar.update)
        negative = [row for row in decoded if row["label"] == -1 and row["marked"] is None]
        complaints = others.intersection((row["interaction_id"], row["turn"]) for row in negative)
    return TasteRef(
        data_hash=stored.sha256, liked=sorted(right), thumbs_down=sorted(down), decoded_negative=sorted(complaints)
    )


@task(name="measure", task_run_name="measure {policy.model}/{policy.version}", persist_result=False)
def measure(
    workspace: Workspace,
    profile: Profile,
    policy: RegisteredRef,
    game_set: str,
    liked: TasteRef,
    prompts: list[TurnKey],
    reply_tokens: int,
) -> MeasuredRef:
    """Score the replies under one policy, and have it reply to the prompts, in a process of its own."""
    spec = CompareSpec.of(
        workspace,
        profile,
        adapter=registry.download(workspace, registry.named(workspace, f"{policy.model}/{policy.version}")),
        adapter_hash=policy.adapter_hash,
        game_set=game_set,
        data_hash=liked.data_hash,
        scored=liked.scored,
        prompts=prompts,
        reply_tokens=reply_tokens,
    )
    directory = workspace.scratch / "compare" / game_set / policy.model / policy.version
    with progress.bar(f"measure {policy.model}/{policy.version}") as bar:
        return MeasuredRef(policy=policy, **json.loads(process.run(spec, directory, bar.update).read_text()))


def some(turns: Sequence[TurnKey], most: int) -> list[TurnKey]:
    """Choose the turns that the policies reply to, the same ones every time."""
    return sorted(turns, key=lambda turn: hashlib.sha256(f"{turn[0]}/{turn[1]}".encode()).digest())[:most]


@task(name="judge replies", persist_result=False)
def judge_replies(
    workspace: Workspace,
    game_set: str,
    judge: str,
    prompts: Sequence[TurnKey],
    first: MeasuredRef,
    second: MeasuredRef,
    concurrency: int,
) -> dict[str, Any]:
    """Have the judge compare each pair of replies in both orders. Equal replies are a tie, and nobody is asked.

    Raises:
        EndpointError: the judge does not answer, or no answer of it is a verdict.
    """
    logs, endpoint = (
        {log.interaction_id: log for log in curated.read(workspace.open(), game_set)},
        Endpoint.named(judge),
    )
    pairs = list(zip(prompts, first.replies, second.replies, strict=True))
    asked = [(turn, ours, theirs) for turn, ours, theirs in pairs if ours != theirs]
    questions = [
        duel.question(scenario(logs[name].scenario).messages(waiting(from_log(logs[name]), turn)), *replies)
        for (name, turn), ours, theirs in asked
        for replies in ((ours, theirs), (theirs, ours))
    ]
    with progress.bar("judge") as bar:
        answers = endpoint.answers(questions, tokens=_ANSWER_TOKENS, concurrency=concurrency, progress=bar.update)
    verdicts = [duel.in_both_orders(*both) for both in zip(answers[::2], answers[1::2], strict=True)]
    if asked and all(won is None for won in verdicts):
        raise EndpointError(
            f"{endpoint.model} at {endpoint.host} answered none of {len(questions)} questions with A, B or tie: name "
            "a model that follows instructions"
        )
    won_by_turn = {turn: won for (turn, _, _), won in zip(asked, verdicts, strict=True)}
    judged = [
        Judged(logs[turn[0]].user, won, len(ours), len(theirs))
        for turn, ours, theirs in pairs
        if (won := won_by_turn.get(turn, 0.5)) is not None
    ]
    rate = duel.win_rate(judged)
    return {
        "judge": f"{endpoint.model} at {endpoint.host}",
        "equal_replies": len(pairs) - len(asked),
        "set_aside": len(pairs) - len(judged),
        **(duel.to_json(rate) if rate else {}),
    }


@task(name="report comparison", persist_result=False)
def report_comparison(
    workspace: Workspace,
    game_set: str,
    liked: TasteRef,
    first: MeasuredRef,
    second: MeasuredRef,
    judged: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Write comparison-A-B.json and a Prefect artifact; return the contents."""
    users = {log.interaction_id: log.user for log in curated.read(workspace.open(), game_set)}
    right = set(liked.liked)
    scored = [
        Scored(users[turn[0]], turn in right, ours, theirs)
        for turn, ours, theirs in zip(liked.scored, first.logp, second.logp, strict=True)
    ]
    versions = [f"{each.policy.model}/{each.policy.version}" for each in (first, second)]
    tags = [registry.named(workspace, version).tags for version in versions]
    summary = {
        "game_set": game_set,
        "first": {"name": first.policy.variant, "version": versions[0]},
        "second": {"name": second.policy.variant, "version": versions[1]},
        "chosen_on_it": [
            version
            for version, tag in zip(versions, tags, strict=True)
            if tag.get("validation", curated.VALIDATION) == game_set
        ],
        "disliked_from": {"thumbs_down": len(liked.thumbs_down), "decoded_negative": len(liked.decoded_negative)},
        "likelihood": duel.to_json(duel.likelihoods(scored)),
        "judged": judged,
    }
    file = workspace.root / f"comparison-{'-'.join(name.replace('/', '-') for name in _names(summary))}.json"
    write_whole(file, json.dumps(summary, indent=2) + "\n")
    rows = [dict(zip(("figure", *_names(summary), "difference"), row, strict=True)) for row in _rows(summary)]
    create_table_artifact(key="comparison", table=rows, description=f"{versions[0]} and {versions[1]}")
    return summary


def _names(summary: Mapping[str, Any]) -> tuple[str, str]:
    return summary["first"]["name"], summary["second"]["name"]


def show(summary: Mapping[str, Any], console: Console) -> None:
    """Show the comparison on the terminal."""
    names, counts, from_ = _names(summary), summary["likelihood"], summary["disliked_from"]
    title = (
        f"Log-likelihood per token of {counts['liked']:,} curated replies of {summary['game_set']}, "
        f"{counts['users']:,} users"
    )
    table = Table("figure", *names, "difference", title=escape(title))
    for row in _rows(summary):
        table.add_row(*(escape(cell.replace(" [", "\n[")) for cell in row))  # fits into 80 columns
    console.print(table)
    lines = [
        f"disliked replies: {counts['disliked']:,}, {from_['thumbs_down']:,} by a thumb down and "
        f"{from_['decoded_negative']:,} by a follow-up decoded as negative"
    ]
    if chosen := summary["chosen_on_it"]:
        lines.append(f"chosen by these same replies: {', '.join(chosen)}; another set flatters none of them")
    if judged := summary["judged"]:
        lines.append(
            f"judge {judged['judge']}: {judged.get('pairs', 0):,} pairs in both orders, {judged['equal_replies']:,} of "
            f"them equal, {judged['set_aside']:,} set aside without a verdict"
        )
    for line in lines:
        console.print(f"- {line}", highlight=False, markup=False, soft_wrap=True)


def _rows(summary: Mapping[str, Any]) -> list[tuple[str, ...]]:
    likelihood, judged = summary["likelihood"], summary["judged"] or {}
    rows: list[tuple[str, ...]] = [
        (
            title,
            *(_shown(likelihood[f"{which}{name}"], ".3f") for which in ("first", "second")),
            _shown(likelihood[f"{name.strip('_')}{'_' if name else ''}difference"], "+.3f"),
        )
        for title, name in (("curated", ""), ("over disliked", "_margin"))
    ]
    if "raw" in judged:
        rows.append(("judged better", _shown(judged["raw"], ".1%"), "", ""))
        rows.append(("at equal length", _shown(judged["equal_length"], ".1%"), "", ""))
        lengths = (f"{judged[f'{which}_length']:,.0f}" for which in ("first", "second"))
        rows.append(("characters", *lengths, ""))
    return rows


def _shown(figure: Mapping[str, Any] | None, form: str) -> str:
    if figure is None:
        return "-"
    return f"{figure['value']:{form}} [{figure['ci95'][0]:{form}}, {figure['ci95'][1]:{form}}]"
