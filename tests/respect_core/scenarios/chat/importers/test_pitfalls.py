"""Each pitfall of real chat logs, in the smallest log that has it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from chat_logs import START, WRITERS, conversation, exchange, spoken, write

from respect_core.scenarios.chat.importers import (
    Conversation,
    Imported,
    Message,
    NothingUsableError,
    Sibling,
    read_conversations,
)

Log = tuple[list[Conversation], Imported]


@pytest.fixture
def log(tmp_path: Path) -> Any:
    def read(*records: Any, **options: Any) -> Log:
        summary = Imported()
        path = write(tmp_path / "log.jsonl", records)
        return list(read_conversations([path], imported=summary, **options)), summary

    return read


def said(*texts: str) -> list[dict[str, Any]]:
    """Messages of user and assistant in turn."""
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]


def pair(*texts: str, minute: float = 0, **body: Any) -> dict[str, Any]:
    """A request with all texts but the last, which is the answer."""
    return {
        "id": f"r{minute}",
        "timestamp": (START + timedelta(minutes=minute)).isoformat(),
        "request": {"model": "alias", "messages": said(*texts[:-1])} | body,
        "response": {"model": "model-7", "choices": [{"message": said("", texts[-1])[1], "finish_reason": "stop"}]},
    }


def texts(talk: Conversation) -> list[str]:
    return [text for turn in talk.turns for text in (turn.utterance, *(each.content for each in turn.reply))]


# --- histories, branches, duplicates ----------------------------------------------------------------------------


def test_a_history_that_every_request_repeats_counts_once(log: Any) -> None:
    records = [
        pair("a", "b", minute=1),
        pair("a", "b", "c", "d", minute=2),
        pair("a", "b", "c", "d", "e", "f", minute=3),
    ]
    for order in (records, records[::-1]):
        (talk,), summary = log(*order)
        assert texts(talk) == list("abcdef")
        assert (summary.records, summary.turns, summary.follow_ups) == (3, 3, 2) and not summary.set_aside


def test_duplicates_count_once(log: Any) -> None:
    first, again = pair("a", "b", minute=1), pair("a", "b", minute=1) | {"id": "again"}
    (talk,), summary = log(first, first, again)
    assert texts(talk) == ["a", "b"] and summary.set_aside == {"a duplicate, counted once": 2}
    talk_twice = {"messages": said("a", "b"), "id": "x"}
    results, summary = log(talk_twice, talk_twice | {"id": "y"})
    assert len(results) == 1 and summary.set_aside == {"a duplicate, counted once": 1}


@pytest.mark.parametrize("name", WRITERS)
def test_importing_a_file_beside_its_copy_counts_it_once(name: str, tmp_path: Path) -> None:
    talk = conversation(exchange("a", "b", explicit=1, model="m"), exchange("c", "d", explicit=-1, model="m"))
    for copy in ("one.jsonl", "two.jsonl"):
        write(tmp_path / copy, WRITERS[name].records(talk))
    (result,) = read_conversations([tmp_path])
    assert [spoken(turn) for turn in result.turns] == [spoken(turn) for turn in talk.turns]


def test_a_record_that_a_longer_one_repeats_is_set_aside(log: Any) -> None:
    (talk,), summary = log(*({"messages": said(*"abcdef"[:n])} for n in (2, 4, 6)))
    assert texts(talk) == list("abcdef")
    assert summary.set_aside == {"a history that a longer record repeats": 2}


def test_a_regenerated_reply_is_a_sibling(log: Any) -> None:
    (talk,), _ = log(pair("a", "b", minute=1), pair("a", "B", minute=2), pair("a", "B", "c", "d", minute=3))
    assert texts(talk) == list("aBcd")
    assert talk.turns[0].siblings == (Sibling("a", (Message("assistant", "b"),), None, "model-7"),)


def test_an_edited_utterance_is_a_sibling(log: Any) -> None:
    (talk,), _ = log(
        pair("a", "b", minute=1),
        pair("a", "b", "c", "d", minute=2),
        pair("a", "b", "C", "D", minute=3),
        pair("a", "b", "C", "D", "e", "f", minute=4),
    )
    assert texts(talk) == list("abCDef")
    assert [(each.utterance, each.reply[0].content) for each in talk.turns[1].siblings] == [("c", "d")]


def test_a_branch_that_went_on_is_a_conversation_that_repeats_no_turn(log: Any) -> None:
    results, summary = log(
        pair("a", "b", minute=1),
        pair("a", "b", "c", "d", "e", "f", minute=2),
        pair("a", "b", "C", "D", "E", "F", "g", "h", minute=3),
    )
    assert [texts(each) for each in results] == [list("abCDEFgh"), list("cdef")]
    assert [each.content for each in results[1].opening] == ["a", "b"] and not results[0].turns[1].siblings
    assert (summary.turns, summary.siblings) == (6, 0)


def test_the_same_question_much_later_is_another_conversation(log: Any) -> None:
    results, _ = log(
        pair("lamp on", "Done", minute=0), pair("lamp on", "Done", minute=90), pair("lamp on", "Yes", minute=91)
    )
    assert [texts(each) for each in results] == [["lamp on", "Done"], ["lamp on", "Yes"]]
    assert len(results[1].turns[0].siblings) == 1


def test_users_are_kept_apart(log: Any) -> None:
    results, _ = log(*(pair("hi", "Hello!", minute=i, user=user) for i, user in enumerate(("ann", "bob"))))
    assert [each.user for each in results] == ["ann", "bob"]


def test_a_time_in_the_system_prompt_breaks_nothing(log: Any) -> None:
    def timed(minute: int, *texts: str) -> dict[str, Any]:
        record = pair(*texts, minute=minute)
        clock = f"You help. It is Sunday, March 1, 2026 at {minute}:0{minute} pm."
        record["request"]["messages"].insert(0, {"role": "system", "content": clock})
        return record

    (talk,), _ = log(timed(1, "a", "b"), timed(2, "a", "B"), timed(3, "a", "B", "c", "d"))
    assert texts(talk) == list("aBcd") and len(talk.turns[0].siblings) == 1
    assert talk.system is not None and talk.system.startswith("You help.")
    other = pair("a", "x", minute=4)
    other["request"]["messages"].insert(0, {"role": "system", "content": "You translate."})
    assert len(log(timed(1, "a", "b"), other)[0]) == 2


def test_a_session_whose_requests_have_no_history_is_one_conversation(log: Any) -> None:
    names = {"trace_id": "t", "type": "GENERATION", "session_id": "s1"}
    (talk,), _ = log(
        names | {"id": "o1", "start_time": "2026-03-01 12:00:00.0", "input": "a", "output": "b"},
        names
        | {"id": "o2", "start_time": "2026-03-01 12:01:00.0", "input": {"question": "c"}, "output": {"answer": "d"}},
    )
    assert texts(talk) == list("abcd") and talk.id == "s1"


# --- ids --------------------------------------------------------------------------------------------------------


def chunk(name: str, *texts: str) -> dict[str, Any]:
    return {"id": name, "conversations": [{"from": ("human", "gpt")[i % 2], "value": t} for i, t in enumerate(texts)]}


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 1, 2, 0)])
def test_chunks_of_one_conversation_are_joined(log: Any, order: Sequence[int]) -> None:
    records = [chunk("Qx7_0", "a", "b"), chunk("Qx7_1", "c", "d"), chunk("Qx7_2", "e", "f"), chunk("Zz9_0", "g", "h")]
    results, summary = log(*(records[i] for i in order))
    assert sorted((each.id, texts(each)) for each in results) == [("Qx7", list("abcdef")), ("Zz9_0", ["g", "h"])]
    assert summary.records == 4


def test_chunks_between_which_one_is_lost_are_not_joined(log: Any) -> None:
    results, _ = log(chunk("Qx7_0", "a", "b"), chunk("Qx7_4", "e", "f"))
    assert [texts(each) for each in results] == [["a", "b"], ["e", "f"]]


def test_numbers_of_records_are_no_chunks(log: Any) -> None:
    assert len(log(*(chunk(f"doc_{i}", f"a{i}", "b") for i in range(20)))[0]) == 20
    assert len(log(*(chunk(f"conversation_{i}", f"a{i}", "b") for i in range(3)))[0]) == 3


def test_an_id_that_two_conversations_share_becomes_two(log: Any) -> None:
    rows = [{"conversation_hash": "h", "conversation": said("a", reply), "language": "English"} for reply in ("b", "c")]
    results, summary = log(*rows)
    assert [(each.id, texts(each)) for each in results] == [("h", ["a", "b"]), ("h-2", ["a", "c"])]
    assert summary.languages == {"English": 2}


def test_a_reply_that_was_not_preferred_is_a_sibling(log: Any) -> None:
    record = {
        "input": {"messages": said("a")},
        "preferred_output": said("", "b")[1:],
        "non_preferred_output": said("", "c")[1:],
    }
    (talk,), _ = log(record)
    assert texts(talk) == ["a", "b"] and talk.turns[0].siblings == (Sibling("a", (Message("assistant", "c"),)),)
    (talk,), _ = log({"prompt": "a", "chosen": "b", "rejected": "c"})
    assert texts(talk) == ["a", "b"] and talk.turns[0].siblings == (Sibling("a", (Message("assistant", "c"),)),)


def test_sharegpt_has_a_thumb_for_its_last_reply(log: Any) -> None:
    (talk,), summary = log(chunk("x", "a", "b", "c", "d") | {"kto_tag": False, "system": "S"})
    assert [turn.explicit for turn in talk.turns] == [None, -1] and talk.system == "S" and summary.rated == 1


# --- messages ---------------------------------------------------------------------------------------------------


def test_empty_messages_are_left_out_and_those_of_one_role_joined(log: Any) -> None:
    roles = [("user", "a"), ("user", "b"), ("assistant", ""), ("assistant", "c"), ("assistant", "d"), ("user", " ")]
    (talk,), _ = log({"messages": [{"role": role, "content": content} for role, content in roles]})
    assert [spoken(turn) for turn in talk.turns] == [["a\n\nb", ["assistant", "c\n\nd", []]]]


def test_a_follow_up_comes_after_results_of_tools(log: Any) -> None:
    call = {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{}"}}],
    }
    messages = [
        *said("a"),
        call,
        {"role": "tool", "tool_call_id": "1", "content": "r"},
        *said("", "b")[1:],
        *said("c", "d"),
    ]
    (talk,), summary = log({"messages": messages})
    assert [each.role for each in talk.turns[0].reply] == ["assistant", "tool", "assistant"]
    assert talk.turns[1].utterance == "c" and summary.follow_ups == 1


def test_parts_of_a_message_become_text_and_pictures_are_noted(log: Any) -> None:
    parts = [{"type": "text", "text": "What is"}, {"type": "image_url", "image_url": {"url": "data:x"}}, "this?"]
    (talk,), summary = log({"messages": [{"role": "user", "content": parts}, *said("", "A cat.")[1:]]})
    assert talk.turns[0].utterance == "What is\n[image]\nthis?"
    assert summary.left_out == {"an image in a message": 1} and not summary.set_aside


def test_anthropic_blocks_are_calls_results_and_text(log: Any) -> None:
    use = {"type": "tool_use", "id": "t1", "name": "f", "input": {"x": 1}}
    result = {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "r"}]}
    request = {
        "system": "S",
        "messages": [*said("a"), {"role": "assistant", "content": [use]}, {"role": "user", "content": [result]}],
    }
    answer = {
        "type": "message",
        "role": "assistant",
        "content": [{"type": "thinking", "thinking": "?"}, {"type": "text", "text": "b"}],
    }
    (talk,), _ = log({"request": request, "response": answer})
    assert [spoken(turn) for turn in talk.turns] == [
        ["a", ["assistant", "", [("f", '{"x": 1}')]], ["tool", "r", []], ["assistant", "b", []]]
    ]
    assert talk.system == "S"


def test_a_response_of_the_responses_api_is_read(log: Any) -> None:
    items = [
        {"type": "reasoning"},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "b"}]},
    ]
    (talk,), _ = log(
        {"request": {"input": "a", "instructions": "S"}, "response": {"object": "response", "output": items}}
    )
    assert texts(talk) == ["a", "b"] and talk.system == "S"


def test_an_answer_that_is_json_stays_text(log: Any) -> None:
    for answer in ('{"title": "x"}', "[1, 2]", '[{"a": 1}]'):
        (talk,), _ = log({"call_type": "completion", "messages": said("a"), "response": answer})
        assert texts(talk) == ["a", answer]


def test_a_lone_surrogate_can_be_stored(log: Any) -> None:
    (talk,), _ = log({"messages": said("a \ud83d", "b")})
    assert talk.turns[0].utterance.encode()


# --- streams, probabilities, settings ---------------------------------------------------------------------------


def chunks(*words: str, finish: str | None) -> list[dict[str, Any]]:
    head = {"object": "chat.completion.chunk", "model": "model-7"}
    stream = [head | {"choices": [{"index": 0, "delta": {"content": word}, "finish_reason": None}]} for word in words]
    return [*stream, head | {"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]}]


@pytest.mark.parametrize(("finish", "cut"), [("stop", False), (None, True)])
def test_a_stream_without_a_reason_to_finish_was_cut(log: Any, finish: str | None, cut: bool) -> None:
    record = pair("a", "") | {"response": chunks("It ", "is", finish=finish)}
    (talk,), _ = log(record)
    assert talk.turns[0].reply[0].content == "It is" and talk.turns[0].cut is cut


def test_a_client_that_kept_the_beginning_of_an_answer_cut_it(log: Any) -> None:
    (talk,), _ = log(pair("a", "one two three", minute=1), pair("a", "one two", "stop", "ok", minute=2))
    assert texts(talk) == ["a", "one two", "stop", "ok"] and talk.turns[0].cut and not talk.turns[0].siblings


def test_log_probabilities_are_summed_and_unknown_without(log: Any) -> None:
    known = pair("a", "b", minute=1, temperature=0.7)
    known["response"]["choices"][0] |= {
        "logprobs": {"content": [{"logprob": -0.5}, {"logprob": -1.0}]},
        "token_ids": [4, 2],
    }
    (talk,), _ = log(known, pair("a", "b", "c", "d", minute=2))
    assert [(turn.logprob, turn.token_ids, turn.sampling) for turn in talk.turns] == [
        (-1.5, (4, 2), {"temperature": 0.7}),
        (None, None, None),
    ]


def test_the_model_that_answered_is_named_not_its_alias(log: Any) -> None:
    (talk,), _ = log(pair("a", "b"))
    assert talk.turns[0].model == "model-7"


@pytest.mark.parametrize(
    "prompt",
    [
        "### Task:\nGenerate a concise, 3-5 word title with an emoji summarizing the chat history.\n### Output: ...",
        "### Task:\nGenerate 1-3 broad tags categorizing the main themes of the chat history.",
        "### Task:\nSuggest 3-5 relevant follow-up questions that the user might ask, given the conversation",
        "Write a short title for this conversation: USER: hi",
        "### Task:\nYou are an autocompletion system.",
        "### Task:\nPredict what comes next.\n### Chat History:\n<chat_history>\nUSER: hi\n</chat_history>",
        "### Task:\nSummarize the conversation history that will be compacted.\n### Messages: ...",
        "Your task is to reflect the speaker's likely mood through a fitting emoji.",
        "You have been provided with a set of responses from various models to a question.",
    ],
)
def test_background_calls_are_set_aside(log: Any, prompt: str) -> None:
    (talk,), summary = log(pair("a", "b", minute=1), pair(prompt, "Lamps", minute=2))
    assert texts(talk) == ["a", "b"]
    assert summary.set_aside == {"a background call, such as for a title or tags": 1}


@pytest.mark.parametrize(
    "system", ["Available Tools: [...]\nYour task is to choose", "You are Open WebUI's private reviewer."]
)
def test_an_interface_s_own_system_prompt_makes_a_background_call(log: Any, system: str) -> None:
    asked = pair("Query: lamps on", "[]", minute=2)
    asked["request"]["messages"].insert(0, {"role": "system", "content": system})
    _, summary = log(pair("a", "b", minute=1), asked)
    assert summary.set_aside == {"a background call, such as for a title or tags": 1}


def test_a_question_about_titles_is_no_background_call(log: Any) -> None:
    assert len(log(pair("Suggest a title for my novel about lamps", "Light"))[0]) == 1
    assert len(log(pair("a", "b", "Write a title for our conversation", "Lamps"))[0][0].turns) == 2


def test_a_question_with_documents_is_no_background_call(log: Any) -> None:
    asked = "### Task:\nRespond to the user query using the provided context.\n<context>\nlamps\n</context>\nlight?"
    assert len(log(pair(asked, "yes"))[0]) == 1


def test_background_calls_among_whole_conversations_are_set_aside(log: Any) -> None:
    _, summary = log({"messages": said("Write a short title for this conversation", "c")}, {"messages": said("a", "b")})
    assert summary.set_aside == {"a background call, such as for a title or tags": 1}


# --- trees ------------------------------------------------------------------------------------------------------


def node(name: str, parent: str | None, role: str, content: str, **fields: Any) -> dict[str, Any]:
    return {"id": name, "parentId": parent, "role": role, "content": content} | fields


def test_a_chat_of_open_webui_with_its_feedback(log: Any) -> None:
    messages = [
        node("1", None, "user", "a"),
        node("2", "1", "assistant", "b", model="m"),
        node("3", "1", "assistant", '<details type="reasoning" done="true">hm</details>\nB', model="m"),
        node("4", "3", "user", "c", files=[{"type": "image"}]),
        node("5", "4", "assistant", "d", done=False),
    ]
    chat = {
        "id": "chat",
        "user_id": "ann",
        "chat": {"history": {"messages": {m["id"]: m for m in messages}, "currentId": "5"}},
    }
    ratings = [
        {
            "id": f"f{target}",
            "type": "rating",
            "data": {"rating": rating},
            "meta": {"chat_id": "chat", "message_id": target},
        }
        | {"snapshot": {"chat": chat}}
        for target, rating in (("2", -1), ("5", 1))
    ]
    for records in (ratings, [chat, *ratings], [*ratings, chat]):
        (talk,), summary = log(*records)
        assert texts(talk) == list("aBcd") and talk.user == "ann"
        assert talk.turns[0].siblings == (Sibling("a", (Message("assistant", "b"),), -1, "m"),)
        assert [turn.explicit for turn in talk.turns] == [None, 1] and talk.turns[1].cut
        assert summary.left_out["a file of a message (image)"]


def test_in_a_tree_the_path_of_the_user_is_the_conversation(log: Any) -> None:
    mapping = {
        name: {"parent": parent, "message": {"author": {"role": role}, "content": {"parts": [name]}}}
        for name, parent, role in [
            ("a", None, "user"), ("b", "a", "assistant"), ("c", "b", "user"), ("d", "c", "assistant"),
            ("C", "b", "user"), ("D", "C", "assistant"),
        ]
    }  # fmt: skip
    for current, path, other in (("d", "abcd", "C"), ("D", "abCD", "c")):
        (talk,), _ = log({"conversation_id": "x", "current_node": current, "mapping": mapping})
        assert texts(talk) == list(path) and [each.utterance for each in talk.turns[1].siblings] == [other]


def test_the_best_of_equal_replies_goes_on_in_open_assistant(log: Any) -> None:
    replies = [
        {"message_id": n, "role": "assistant", "text": n, "rank": rank} for n, rank in (("x", 1), ("y", 0), ("z", 2))
    ]
    prompt = {"message_id": "p", "role": "prompter", "text": "a", "lang": "de", "user_id": "u", "replies": replies}
    (talk,), summary = log({"message_tree_id": "p", "prompt": prompt})
    assert texts(talk) == ["a", "y"] and len(talk.turns[0].siblings) == 2 and summary.languages == {"de": 1}


# --- spans ------------------------------------------------------------------------------------------------------


def test_traces_observations_and_scores_of_separate_files_are_joined(tmp_path: Path) -> None:
    ids = {"traceId": "t", "type": "GENERATION"}
    trace = {
        "id": "t",
        "timestamp": "2026-03-01T12:00:00Z",
        "sessionId": "s",
        "userId": "ann",
        "input": "a",
        "output": "b",
    }
    write(tmp_path / "a_scores.jsonl", [
        {"id": "1", "traceId": "t", "name": "user-feedback", "value": 0, "source": "API"},
        {"id": "2", "traceId": "t", "name": "hallucination", "value": 1, "source": "EVAL"},
        {"id": "3", "traceId": "t", "name": "latency", "value": 0.3, "source": "API"},
    ])  # fmt: skip
    write(
        tmp_path / "b_observations.jsonl",
        [ids | {"id": "o", "startTime": "2026-03-01T12:00:00Z", "input": said("a"), "output": "b"}],
    )
    write(tmp_path / "c_traces.json", [trace], array=True)
    summary = Imported()
    (talk,) = read_conversations([tmp_path], imported=summary)
    assert (talk.id, talk.user, texts(talk), talk.turns[0].explicit) == ("s", "ann", ["a", "b"], -1)
    assert summary.set_aside == {"a score of an evaluator": 1}
    assert summary.left_out == {"a score that is no thumb of a user": 1}


@pytest.mark.parametrize(("values", "explicit"), [((1, 0), [1, -1]), ((1, 5), [None, None])])
def test_a_score_with_more_values_than_a_thumb_is_none(log: Any, values: Any, explicit: Any) -> None:
    names = {"traceId": "t", "type": "GENERATION"}
    (talk,), _ = log(
        names | {"id": "o1", "startTime": "2026-03-01T12:00:00Z", "input": said("a"), "output": "b"},
        names | {"id": "o2", "startTime": "2026-03-01T12:01:00Z", "input": said("a", "b", "c"), "output": "d"},
        *(
            {
                "id": f"s{i}",
                "traceId": "t",
                "observationId": f"o{i}",
                "name": "user-rating",
                "value": value,
                "source": "API",
            }
            for i, value in enumerate(values, 1)
        ),
    )
    assert [turn.explicit for turn in talk.turns] == explicit


def test_a_number_beside_a_message_is_no_thumb(log: Any) -> None:
    for rating, explicit in ((1, None), (True, 1), (False, -1), ("thumbs_down", -1)):
        (talk,), _ = log({"messages": [*said("a"), said("", "b")[1] | {"rating": rating}]})
        assert talk.turns[0].explicit == explicit


# --- what is not understood -------------------------------------------------------------------------------------


def test_bad_records_cost_no_other_and_say_what_to_do(log: Any, tmp_path: Path) -> None:
    lines = [
        json.dumps({"messages": said("a", "b")}),
        '{"messages": [{"role": "user", "content": "cut sho',
        "[1, 2]",
        json.dumps({"foo": 1}),
        json.dumps({"messages": [{"role": "wizard", "content": "a"}]}),
        json.dumps({"messages": said("a")}),
        json.dumps({"messages": "none"}),
    ]
    path = tmp_path / "bad.jsonl"
    path.write_bytes("\n".join(lines).encode() + b'\n{"messages": "\xff"}\n')
    problems = []
    summary = Imported(on_problem=problems.append)
    assert len(list(read_conversations([path], imported=summary))) == 1
    assert [(each.record, each.reason) for each in sorted(problems, key=lambda each: each.record)] == [
        ("line 2", "not JSON"),
        ("line 3", "a record that is no object"),
        ("line 4", "no known format"),
        ("line 5", "an unknown role"),
        ("line 6", "a history that a longer record repeats"),
        ("line 7", "no list of messages"),
        ("line 8", "invalid UTF-8"),
    ]
    assert all(each.object == "bad.jsonl" and each.remedy for each in problems)
    assert "line 5" in str(summary) and "messages[0].role" in str(summary)


def test_nothing_usable_is_loud(log: Any) -> None:
    with pytest.raises(NothingUsableError, match=r"0 of 3 records usable, because 2 x no known format .*line 1.*foo"):
        log({"foo": 1}, {"foo": 2}, {"messages": said("a")})
