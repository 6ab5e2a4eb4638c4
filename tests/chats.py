"""A small deployment of a chat assistant in a store, for tests of its report: two rounds, with records set aside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
from reports import SCRIPT, round_summary

from respect_core.log.export import export_everything
from respect_core.log.log import Problem, append_logs
from respect_core.log.records import InteractionLog, LoggedTurn, PolicyIdentity
from respect_core.scenarios.chat.reply import Part, state, written
from respect_core.schemas import FEEDBACK_SCHEMA
from respect_core.store.base import Store
from respect_core.store.open import open_store
from respect_core.store.tables import write_partition

PROFANE = "an unfit word"
"""What a record that was set aside holds."""
_CALL = written(
    [
        Part("assistant", "", ('{"name": "set_light", "arguments": {"room": "hall", "on": true}}',)),
        Part("tool", "ok"),
        Part("assistant", "The light is on."),
    ]
)


def conversation(number: int, round: int, variant: str, version: str) -> InteractionLog:
    """Turns with a complaint by user 0, HTML, a call of a tool, a long reply and an unseen character."""
    says = [f"light, please {SCRIPT}", "no, in the hall!", "and the \u202eheating", "thanks", "one more", "and more"]
    does = ["In the attic.", _CALL, "x" * 5000, "You are welcome.", "Done.", "Done."]
    turns = [LoggedTurn(utterance=said, action=done) for said, done in zip(says, does, strict=True)]
    turns[0] = turns[0].model_copy(update={"state": state("You run a home."), "explicit": 1 if number == 1 else None})
    name, _, newest = version.partition("/")
    return InteractionLog(
        interaction_id=f"chat-{round}-{variant}-{number:02}",
        scenario="chat",
        round=round,
        variant=variant,
        policy=PolicyIdentity(name=name, version=newest or "unknown"),
        user=f"user-{number}",
        started_at="1970-01-01T00:00:00+00:00",
        context=[],
        turns=turns,
        closing="bye",
    )


def conversations(root: Path) -> Store:
    """Round 0 by somebody's model, round 1 by two versions of b-fft; a quarter of all follow-ups is negative."""
    store = open_store(str(root))
    for round, variant, versions in (
        (0, "seed", ["small-model"]),
        (1, "b-fft", ["respect.b-fft/1", "respect.b-fft/2"]),
    ):
        logs = [conversation(number, round, variant, versions[number % len(versions)]) for number in range(4)]
        append_logs(store, logs)
        export_everything(store)
        _feedback(store, round, variant)
    problems = [(0, "no reply"), (0, "no reply"), (0, f"Input should be a valid string, not {PROFANE!r}")]
    for place, (round, reason) in enumerate([*problems, (1, problems[-1][1])]):
        problem = Problem("log.jsonl", f"line {place}", "", reason, "leave it out")
        store.put(f"set_aside/round={round}/variant=seed/import-{place}.jsonl", problem.to_json() + b"\n")
    return store


def _feedback(store: Store, round: int, variant: str) -> None:
    """In round 0 all of one user's are negative; in round 1 those of the first turn, and two more."""
    rows: list[dict[str, Any]] = []
    for number in range(4):
        for turn in range(6):
            complaint = number == 0 if round == 0 else turn == 0 or (turn == 1 and number in (2, 3))
            key = {
                "interaction_id": f"chat-{round}-{variant}-{number:02}",
                "round": round,
                "variant": variant,
                "turn": turn,
            }
            label = -1 if complaint else 1
            rows += [
                {**key, "decoder": decoder, "label": label, "score": 3.0 * label, "low_margin": turn == 5}
                | {"decoder_model": "SmolLM2", "decoder_revision": "0" * 16, "prompt_hash": "p", "thresholds": "{}"}
                for decoder in ("binary", "ternary")
            ]
    write_partition(store, "feedback", round, variant, pa.Table.from_pylist(rows, FEEDBACK_SCHEMA))


def summary() -> dict[str, Any]:
    """What the page reads of the summary of round 1."""
    made = round_summary()
    values = made["variants"]["b-fft"] | {"played": None, "guard_rails": {"length_ratio": 9.0, "distance": 0.5}}
    return made | {"round": 1, "scenario": "chat", "variants": {"b-fft": values}, "failed": {}}
