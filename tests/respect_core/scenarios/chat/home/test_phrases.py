"""Phrases: what simulated users say is what hassil understands, and D0's users say it in ways of their own."""

from __future__ import annotations

import json
import random
from importlib.resources import files

import pytest
from hassil import Intents, recognize_all
from hassil.intents import TextSlotList

from respect_core.scenarios.chat.home import phrases
from respect_core.scenarios.chat.home.phrases import TOOLS, Target, Tool

INTENTS = json.loads((files("home_assistant_intents") / "data" / "en.json").read_text(encoding="utf-8"))


def target(tool: Tool, seed: int) -> Target:
    rng = random.Random(seed)
    return Target(tool, tuple((name, rng.choice(values)) for name, values in tool.values.items()))


@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: tool.name)
def test_home_assistants_own_parser_reads_the_goal_from_the_utterance(tool: Tool) -> None:
    blocks = INTENTS["intents"][tool.intent]["data"]
    data = [block for block in blocks if block["metadata"]["slot_combination"] == tool.combination]
    intents = Intents.from_dict(INTENTS | {"intents": {tool.intent: {"data": data}}})
    lists = {"area": TextSlotList.from_strings(phrases.AREAS)}
    for split in ("d0", "users"):
        for seed in range(6):
            wanted = target(tool, seed)
            said = phrases.utterance(wanted, split, random.Random(seed))
            readings = [
                {name: entity.value for name, entity in reading.entities.items()}
                for reading in recognize_all(said, intents, slot_lists=lists)
            ]
            slots = {**tool.slots, **dict(wanted.values)}
            assert any(slots.items() <= reading.items() for reading in readings), (said, readings)


@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: tool.name)
def test_the_templates_of_d0_are_nobody_elses(tool: Tool) -> None:
    d0, others = ({each.text for each in phrases.templates(tool.name)[split]} for split in ("d0", "users"))
    assert d0 and others and not d0 & others


def test_a_call_is_json_that_names_the_tool_and_its_arguments() -> None:
    call = json.loads(target(next(tool for tool in TOOLS if tool.name == "brightness"), 0).call)
    assert call.keys() == {"tool", "area", "level"} and call["tool"] == "brightness"


def test_targets_of_a_conversation_have_different_tools() -> None:
    assert all(len({target.tool.name for target in phrases.targets(random.Random(seed), 3)}) == 3 for seed in range(20))


def test_another_template_is_taken_than_the_one_before() -> None:
    wanted = target(TOOLS[0], 0)
    rng = random.Random(0)
    said = phrases.utterance(wanted, "users", rng)
    assert all(phrases.utterance(wanted, "users", rng, other_than=said) != said for _ in range(50))
