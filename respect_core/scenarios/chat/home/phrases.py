"""Draw what users of a smart home ask for, and in what words, from the sentence templates of Home Assistant.

The templates come with the package home-assistant-intents, and hassil parses them. A call has two sets of templates:
one that D0's users know, and one for everybody else, so that a policy meets wordings that it was not tuned on.
"""

from __future__ import annotations

import importlib.resources
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from respect_core.errors import extra

with extra("home"):
    from hassil import expression
    from hassil.parse_expression import parse_sentence

Split = Literal["d0", "users"]

AREAS = ("kitchen", "bedroom", "living room", "bathroom", "office", "hallway", "garage", "dining room")


@dataclass(frozen=True)
class Tool:
    """A tool of the home, and the templates by which people ask for it.

    `slots` are the values that make templates of the intent ask for this tool, `values` what the templates' own slots
    take: each becomes an argument of the call.
    """

    name: str
    intent: str
    combination: str
    slots: Mapping[str, str]
    values: Mapping[str, Sequence[str | int]]


_AREA = {"area": AREAS}
_LEVELS = tuple(range(10, 100, 10))

TOOLS = (
    Tool("light_on", "HassTurnOn", "area_domain", {"domain": "light"}, _AREA),
    Tool("light_off", "HassTurnOff", "area_domain", {"domain": "light"}, _AREA),
    Tool("fan_on", "HassTurnOn", "area_domain", {"domain": "fan"}, _AREA),
    Tool("fan_off", "HassTurnOff", "area_domain", {"domain": "fan"}, _AREA),
    Tool("brightness", "HassLightSet", "area_brightness", {}, _AREA | {"brightness": _LEVELS}),
    Tool("color", "HassLightSet", "area_color", {}, _AREA | {"color": ("white", "red", "green", "blue", "yellow")}),
    Tool("temperature", "HassClimateSetTemperature", "area_temperature", {}, _AREA | {"temperature": range(17, 26)}),
    Tool("volume", "HassSetVolume", "area_only", {}, _AREA | {"volume_level": _LEVELS}),
    Tool("pause", "HassMediaPause", "area_only", {}, _AREA),
    Tool("resume", "HassMediaUnpause", "area_only", {}, _AREA),
)
_SHORT = {"brightness": "level", "volume_level": "level", "temperature": "degrees"}
"""Names of arguments, where they differ from the slots'."""


@dataclass(frozen=True)
class Target:
    """Something that a user wants: a tool with the value of each slot."""

    tool: Tool
    values: tuple[tuple[str, str | int], ...]

    @property
    def call(self) -> str:
        """The call that does it, as JSON text."""
        return json.dumps({"tool": self.tool.name} | {_SHORT.get(name, name): value for name, value in self.values})


def targets(rng: random.Random, count: int) -> list[Target]:
    """Draw targets with different tools."""
    return [
        Target(tool, tuple((name, rng.choice(values)) for name, values in tool.values.items()))
        for tool in rng.sample(TOOLS, count)
    ]


def utterance(target: Target, split: Split, rng: random.Random, *, other_than: str = "") -> str:
    """Ask for a target in the words of a random template of the split.

    Args:
        other_than: what was said before; another template is taken if there is one.
    """
    known = templates(target.tool.name)[split]
    for _ in range(20):
        text = " ".join(_say(rng.choice(known).expression, dict(target.values), rng).split())
        if text != other_than:
            break
    return text


@cache
def templates(tool_name: str) -> dict[Split, list[Any]]:
    """Return a tool's templates (hassil's `Sentence`) by split: the first of a fixed shuffle are D0's."""
    tool = next(tool for tool in TOOLS if tool.name == tool_name)
    texts = [
        text
        for block in _intents()["intents"][tool.intent]["data"]
        if block["metadata"]["slot_combination"] == tool.combination
        and tool.slots.items() <= block.get("slots", {}).items()
        for text in block["sentences"]
    ]
    parsed = [parse_sentence(text, keep_text=True) for text in texts]
    usable = [each for each in parsed if _names(each.expression) == set(tool.values)]
    random.Random(f"templates-{tool.name}").shuffle(usable)
    return {"d0": usable[:_D0_TEMPLATES], "users": usable[_D0_TEMPLATES:]}


_D0_TEMPLATES = 1


@cache
def _intents() -> dict[str, Any]:
    file = importlib.resources.files("home_assistant_intents") / "data" / "en.json"
    data: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return data


@cache
def _rule(name: str) -> Any:
    return parse_sentence(_intents()["expansion_rules"][name]).expression


def _names(part: Any) -> set[str]:
    """Return the slots that a template asks for."""
    if isinstance(part, expression.ListReference):
        return {part.slot_name}
    if isinstance(part, expression.RuleReference):
        return _names(_rule(part.rule_name))
    return set().union(*map(_names, part.items)) if isinstance(part, expression.Group) else set()


def _say(part: Any, values: Mapping[str, str | int], rng: random.Random) -> str:
    """Walk a template at random, with the target's value at each slot."""
    match part:
        case expression.TextChunk():
            return str(part.original_text)
        case expression.ListReference():
            return str(values[part.slot_name])
        case expression.RuleReference():
            return _say(_rule(part.rule_name), values, rng)
        case expression.Alternative():
            return _say(rng.choice(part.items), values, rng)
        case expression.Permutation():
            return "".join(_say(item, values, rng) for item in rng.sample(part.items, len(part.items)))
        case _:
            return "".join(_say(item, values, rng) for item in part.items)
