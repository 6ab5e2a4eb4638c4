"""Small made-up interactions for tests."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from hypothesis import strategies as st
from PIL import Image

from respect_core.log.records import InteractionLog, LoggedTurn, Outcome, PolicyIdentity
from respect_core.scenarios.multiref import actions
from respect_core.scenarios.multiref.actions import LETTERS
from respect_core.store.base import Store
from respect_core.store.images import put_images

IMAGES = [f"image-{letter}" for letter in LETTERS]


def game(interaction_id: str = "g1", round: int = 5, variant: str = "b-fft", **changes: Any) -> InteractionLog:
    """A game of three turns: a wrong image, its correction, a right one."""
    fields = {
        "interaction_id": interaction_id,
        "round": round,
        "variant": variant,
        "policy": PolicyIdentity(name="respect.b-fft", version="3", adapter_hash="0" * 64),
        "user": "0123456789abcdef",
        "started_at": "2026-01-02T03:04:05",
        "context": IMAGES,
        "turns": [
            LoggedTurn(utterance="the boat", action="select C", probability=0.25, seconds=1.5),
            LoggedTurn(utterance="no, the other one", action="deselect C select D", probability=0.5),
            LoggedTurn(utterance="and a cup", action="select A"),
        ],
        "outcome": Outcome(targets=["image-A", "image-D"], success=True),
    }
    return InteractionLog(**(fields | changes))


def played(interaction_id: str, *actions: str, probability: float | None = 0.5, **changes: Any) -> InteractionLog:
    """A game of round 0 in which the listener does this, whatever is said."""
    turns = [
        LoggedTurn(utterance=f"say {number}", action=action, probability=probability)
        for number, action in enumerate(actions)
    ]
    return game(interaction_id, **({"round": 0, "variant": "seed", "turns": turns} | changes))


def line(log: InteractionLog | None = None, **changes: Any) -> bytes:
    """A log line with fields changed after validation; a value of None removes the field."""
    fields = json.loads((log or game()).model_dump_json()) | changes
    return json.dumps({name: value for name, value in fields.items() if value is not None}).encode() + b"\n"


def with_images(store: Store, names: Iterable[str] = IMAGES) -> Store:
    """The store, after putting small images into it."""
    put_images(store, {name: Image.new("RGB", (4, 4), (number, 0, 0)) for number, name in enumerate(names)})
    return store


def contents(store: Store, prefix: str = "") -> dict[str, bytes]:
    """Everything under a prefix."""
    return {key: store.read(key) for key in store.sizes(prefix)}


@st.composite
def logs(draw: st.DrawFn, ids: st.SearchStrategy[str] | None = None) -> InteractionLog:
    """Any valid interaction of round 5, b-fft, on IMAGES."""
    text = st.text(min_size=1, max_size=12).filter(str.strip)
    context = draw(st.permutations(IMAGES))[: draw(st.integers(2, len(IMAGES)))]
    state, turns = "", []
    for _ in range(draw(st.integers(1, 5))):
        toggled = draw(st.sets(st.sampled_from(LETTERS[: len(context)])))
        after = "".join(sorted(set(state) ^ toggled))
        turns.append(
            LoggedTurn(
                utterance=draw(text),
                action=str(actions.between(state, after)),
                probability=draw(st.none() | st.floats(0, 1, exclude_min=True)),
                seconds=draw(st.none() | st.floats(0, 1e6)),
            )
        )
        state = after
    outcome = draw(st.none() | st.builds(Outcome, targets=st.lists(st.sampled_from(context)), success=st.booleans()))
    known = {"address_prefix": draw(st.none() | text), "signed_in": draw(st.none() | st.booleans())}
    known |= {"started_at": draw(st.sampled_from(["2026-01-02T03:04:05", "2026-01-02T23:04:05.5-02:00", "1970-01-01"]))}
    user = draw(text)
    return game(draw(text if ids is None else ids), context=context, turns=turns, outcome=outcome, user=user, **known)
