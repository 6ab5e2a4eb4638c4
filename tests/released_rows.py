"""Files of exactly the schema of the released dataset: one known game, and made-up ones, of few turns."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from respect_core.scenarios.multiref.importers.released_schema import SCHEMAS

IMAGES = [f"page{number}-{number}.png" for number in range(10)]  # the listener's order: A to J
KNOWN = "Hc9N5Xmg7NiEK4YrP"
P = 0.722408  # of its first turn
Rows = dict[str, list[dict[str, Any]]]


def game_rows(game_id: str, clicks: list[list[int]], **changes: Any) -> Rows:
    """Rows of one game, given what is selected after each of its turns; p of turn n is 0.5 / (n + 1)."""
    selected = [[IMAGES[number] for number in each] for each in clicks]
    game = {
        "game_id": game_id,
        "turn": len(clicks),
        "end": "successful",
        "s comments": None,
        "speaker": "b" * 32,
        "len": "3.218 mins",
        "clicks": selected,
        "context": IMAGES[::-1],  # the speaker's order
        "targets": [IMAGES[number] for number in (1, 3, 5)],
        "chat": [f"utterance {number}" for number in range(len(clicks))],
        "dataset_alias": "D2",
        "policy_name": "bp",
        "date": "2024-08-01",
        "round": 1,
    } | changes
    turns = []
    for number, (before, after) in enumerate(zip([[], *selected], selected, strict=False)):
        turns.append(
            {name: game[name] for name in ("targets", "dataset_alias", "policy_name", "date", "round")}
            | {
                "game_id": game_id,
                "chats": game["chat"][: number + 1],
                "clicks": selected[: number + 1],
                "end": int(game["end"] == "successful"),
                "context": IMAGES,
                "turn_id": number,
                "currently_selected": before,
                "deselected": [image for image in before if image not in after],
                "selected": [image for image in after if image not in before],
                "chat_feedback": game["chat"][number + 1] if number + 1 < len(game["chat"]) else None,
                "game_turn_id": f"{game_id}_{number}",
                "prob_action": 0.5 / (number + 1),
            }
        )
    return {"interaction": [game], "turn": turns}


def annotation(turn: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    shared = {name: turn[name] for name in SCHEMAS["human_eval"].names if name in turn}
    return shared | {"correctness": "yes", "feedback": "yes", "delta_clicks": turn["selected"]} | changes


def released() -> Rows:
    """The known game, two of B-FFT, one of CONTROL, one between people; annotations; feedback."""
    games = [
        game_rows(KNOWN, [[4], *[[4, 6]] * 9], end="unsuccessful", policy_name="sft", round=0, date="2024-07-18"),
        game_rows("won", [[1], [1, 3], [3], [1, 3, 5]]),
        game_rows("other", [[2], [2]]),
        game_rows("control", [[0], []], policy_name="sft", round=6),
        game_rows("people", [[1, 3], [1, 3, 5]], policy_name="hh", round=6),
        game_rows("enhanced", [[1, 3, 5]], policy_name="bp+", round=5),
    ]
    rows = {name: [row for game in games for row in game.get(name, [])] for name in SCHEMAS}
    rows["turn"][0]["prob_action"] = P
    won = {row["turn_id"]: row for row in rows["turn"] if row["game_id"] == "won"}
    for row in rows["turn"]:
        if row["game_id"] in ("people", "enhanced"):
            row["prob_action"] = None if row["game_id"] == "people" else -3.0
    rows["human_eval"] = [
        annotation(won[0]),
        annotation(won[0], correctness="no", feedback="incorrect_satisfaction", delta_clicks=[IMAGES[5]]),
        annotation(won[0], correctness="no", feedback="partial_correctness_satisfaction", delta_clicks=IMAGES[1:3]),
        annotation(won[2], correctness="no", feedback="no", delta_clicks=[IMAGES[3]]),  # selected: so a deselection
        annotation(won[3], delta_clicks=[IMAGES[1], IMAGES[5]], feedback=None),
    ]
    rows["feedback_decoder_binary"] = [
        {"predictions": -1, "labels": 1, "game_turn_id": "won_0", "text": "User: ..."},
        {"predictions": 1, "labels": -1, "game_turn_id": "won_2", "text": "User: ..."},
    ]
    rows["feedback_decoder_ternary"] = [{"predictions": 0, "labels": 1, "game_turn_id": "won_0", "text": "User: ..."}]
    return rows


def write(directory: Path, rows: Rows, shards: int = 1, flat: bool = False) -> Path:
    for name, some in rows.items():
        for shard in range(shards):
            suffix = f"{shard:05}-of-{shards:05}.parquet"
            path = directory / (f"{name}-{suffix}" if flat else f"{name}/train-{suffix}")
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(pa.Table.from_pylist(some[shard::shards], SCHEMAS[name]), path)
    return directory
