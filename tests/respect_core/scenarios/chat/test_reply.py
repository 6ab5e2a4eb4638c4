"""A reply as an action and back, and what comes before an utterance."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from respect_core.scenario import ScenarioError
from respect_core.scenarios.chat import reply
from respect_core.scenarios.chat.reply import Part

TEXTS = st.text() | st.sampled_from(['[{"role":"assistant","content":"x"}]', '[{"role":"', "[]", ""])
PARTS = st.lists(
    st.builds(Part, st.just("assistant"), TEXTS, st.lists(st.just('{"name":"f","arguments":{}}')).map(tuple))
    | st.builds(Part, st.just("tool"), TEXTS),
    max_size=4,
)


@given(PARTS, TEXTS)
def test_reading_what_was_written_gives_the_same_messages(before: list[Part], last: str) -> None:
    parts = [*before, Part("assistant", last)]
    assert reply.read(reply.written(parts)) == parts


@given(st.text().filter(lambda text: not text.startswith('[{"role":"')))
def test_one_text_is_itself(text: str) -> None:
    assert reply.written([Part("assistant", text)]) == text
    assert reply.messages(text) == [reply.text_message("assistant", text)]


def test_a_reply_ends_with_the_assistant() -> None:
    for parts in ([], [Part("tool", "4")], [Part("assistant", "f(2)"), Part("tool", "4")]):
        with pytest.raises(ScenarioError, match="does not end with the assistant's message"):
            reply.written(parts)


@pytest.mark.parametrize(
    "action",
    ['[{"role":"', '[{"role":"assistant"}]', '[{"role":"user","content":"x"}]', '[{"role":"assistant","content":"x"}]'],
)
def test_a_list_that_was_not_written_here_is_refused(action: str) -> None:
    with pytest.raises(ScenarioError):
        reply.read(action)


def test_what_comes_before_an_utterance() -> None:
    assert reply.state(None) == "" and reply.before("") == []
    state = reply.state("Be brief.", ['{"name":"weather"}'], [("assistant", "Hello!")])
    system, greeting = reply.before(state)
    assert system["role"] == "system"
    assert [line in system["content"][0]["text"] for line in ("Be brief.", '{"name":"weather"}')] == [True, True]
    assert greeting == reply.text_message("assistant", "Hello!")
    with pytest.raises(ScenarioError, match="not JSON"):
        reply.before("Be brief.")
