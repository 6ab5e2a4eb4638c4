"""Replies that are written token by token, for many callers at once."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
from text_bases import small_llama

from respect_core.acting import reply as replies
from respect_core.acting import streaming
from respect_core.acting.batcher import OverloadedError
from respect_core.acting.policy import Policy
from respect_core.acting.reply import Piece, Sampling, _overlap
from respect_core.acting.streaming import Streams
from respect_core.interaction import Interaction, Turn
from respect_core.model import packing
from respect_core.model.base import load_base
from respect_core.model.vision import VisionFeatures
from respect_core.scenario import scenario

WORDS = ["turn on the lamp", "what is the capital of France, and why is it there?", "no", "thank you very much " * 9]


@pytest.fixture(scope="module")
def policy() -> Policy:
    """In double precision, in which no draw turns on how many are drawn at once."""
    base = load_base(small_llama(), scenario("chat"), dtype=torch.float64)
    return Policy(base, None, VisionFeatures(base, {}), constrained=False)


def _interaction(name: str, *said: str) -> Interaction:
    """What was said in turns, of which the last has no reply yet."""
    *before, last = said
    pairs = zip(before[::2], before[1::2], strict=True)
    return Interaction(name, (), (*(Turn("", user, reply, logp=-1.0) for user, reply in pairs), Turn("", last)))


def _encoded(policy: Policy, interaction: Interaction) -> packing.Encoded:
    return packing.encode(interaction, policy.base.processor, policy.base.scenario)


class _Caller:
    """Collects the pieces of one reply; while it holds, nothing is written behind its first."""

    def __init__(self, *, holds: bool = False) -> None:
        self.pieces: list[Piece] = []
        self.ended = threading.Event()
        self.first = threading.Event()
        self.go = threading.Event()
        if not holds:
            self.go.set()

    def __call__(self, piece: Piece) -> None:
        self.pieces.append(piece)
        self.first.set()
        assert self.go.wait(120)
        if piece.finish:
            self.ended.set()

    def wait(self) -> tuple[str, tuple[int, ...], Piece]:
        assert self.ended.wait(120)
        return "".join(p.text for p in self.pieces), tuple(t for p in self.pieces for t in p.tokens), self.pieces[-1]


def _ask(streams: Streams[Any], policy: Policy, prompts: Sequence[packing.Encoded], **given: Any) -> list[_Caller]:
    callers = []
    for number, prompt in enumerate(prompts):
        callers.append(_Caller())
        streams.submit(policy, prompt, Sampling(seed=number, max_tokens=24, **given), callers[-1])
    return callers


@pytest.mark.parametrize("temperature", [0.0, 0.05, 1.0])
def test_replies_do_not_depend_on_who_else_is_answered(policy: Policy, temperature: float) -> None:
    prompts = [_encoded(policy, _interaction(f"c{n}", text)) for n, text in enumerate(WORDS * 3)]
    alone: list[tuple[str, tuple[int, ...]]] = []
    for number, prompt in enumerate(prompts):
        streams: Streams[Policy] = Streams(lambda each: each.writer, most=1)
        caller = _Caller()
        streams.submit(policy, prompt, Sampling(temperature, seed=number, max_tokens=24), caller)
        alone.append(caller.wait()[:2])
        streams.close()
    streams = Streams(lambda each: each.writer, most=5)  # so that rows join while others are half written
    together = [caller.wait()[:2] for caller in _ask(streams, policy, prompts, temperature=temperature)]
    streams.close()
    assert together == alone and (not temperature or len({text for text, _ in alone}) > 4)


def test_the_log_probability_is_that_of_the_reply(policy: Policy) -> None:
    streams: Streams[Policy] = Streams(lambda each: each.writer)
    prompt = _encoded(policy, _interaction("c", "hello"))
    caller = _Caller()
    reply = streams.submit(policy, prompt, Sampling(seed=1, max_tokens=12), caller)
    _, tokens, last = caller.wait()
    streams.close()
    assert last.finish == "length" and last.logp is None and len(tokens) == 12, "a reply at its limit has no end"
    expected = _computed(policy, prompt, tokens)
    assert _given(caller) == pytest.approx(expected, abs=1e-4)
    assert reply.logp == pytest.approx(sum(expected), abs=1e-3)


def _given(caller: _Caller) -> list[float]:
    return [value for piece in caller.pieces for value in piece.token_logp]


def _computed(policy: Policy, prompt: packing.Encoded, tokens: Sequence[int]) -> list[float]:
    """The log-probabilities of the tokens in one pass over prompt and reply."""
    ids = torch.tensor([[*prompt.input_ids, *tokens]])
    with torch.no_grad():
        logp = policy.model(input_ids=ids).logits[0, len(prompt.input_ids) - 1 : -1].float().log_softmax(-1)
    values: list[float] = logp.gather(1, torch.tensor(tokens)[:, None]).squeeze(1).tolist()
    return values


def test_a_reply_that_ends_by_itself_has_its_whole_log_probability(
    policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end token is made as probable as the others, so that a random model ends soon."""
    head = policy.writer.model.get_output_embeddings()

    def forward(hidden: torch.Tensor) -> torch.Tensor:
        logits = torch.nn.functional.linear(hidden, head.weight)
        logits[..., policy.writer.chat.end_id] += 9.0
        return logits

    monkeypatch.setattr(head, "forward", forward)
    streams: Streams[Policy] = Streams(lambda each: each.writer)
    callers = _ask(streams, policy, [_encoded(policy, _interaction(f"c{n}", "hello")) for n in range(6)])
    ends = [caller.wait()[2] for caller in callers]
    streams.close()
    ended = [caller for caller, end in zip(callers, ends, strict=True) if end.logp is not None]
    assert ended
    for caller in ended:
        assert caller.pieces[-1].finish == "stop"
        values = [value for piece in caller.pieces for value in piece.token_logp]
        assert caller.pieces[-1].logp == pytest.approx(sum(values), abs=1e-6)


def test_top_p_draws_among_the_most_probable_and_renormalises(policy: Policy) -> None:
    streams: Streams[Policy] = Streams(lambda each: each.writer)
    prompt = _encoded(policy, _interaction("c", "hello"))
    (caller,) = _ask(streams, policy, [prompt], top_p=1e-6)
    (greedy,) = _ask(streams, policy, [prompt], temperature=0.0)
    assert caller.wait()[1] == greedy.wait()[1], "one token is left"
    assert all(value == pytest.approx(0.0, abs=1e-6) for piece in caller.pieces for value in piece.token_logp)
    streams.close()


def test_a_reply_stops_before_what_was_asked_for(policy: Policy) -> None:
    streams: Streams[Policy] = Streams(lambda each: each.writer)
    prompt = _encoded(policy, _interaction("c", "hello"))
    (whole,) = _ask(streams, policy, [prompt])
    text = whole.wait()[0]
    stop = text[len(text) // 2 : len(text) // 2 + 3]
    (stopped,) = _ask(streams, policy, [prompt], stop=(stop, "never said"))
    got, _, last = stopped.wait()
    streams.close()
    assert got == text[: text.index(stop)] and last.finish == "stop" and last.logp is None


def test_what_may_be_the_beginning_of_a_stop_is_held_back() -> None:
    assert [_overlap(text, "END") for text in ("", "E", "xEN", "END", "EE", "N")] == [0, 1, 2, 0, 1, 0]


def test_cancelled_replies_leave_the_others_alone(policy: Policy) -> None:
    streams: Streams[Policy] = Streams(lambda each: each.writer)
    prompts = [_encoded(policy, _interaction(f"c{n}", text)) for n, text in enumerate(WORDS)]
    expected = [caller.wait()[0] for caller in _ask(streams, policy, prompts)]
    gone, callers = _Caller(holds=True), []
    for number, prompt in enumerate(prompts):
        callers.append(_Caller())
        streams.submit(policy, prompt, Sampling(seed=number, max_tokens=24), callers[-1])
        if number == 1:
            long = streams.submit(policy, prompt, Sampling(seed=9, max_tokens=400), gone)
    assert gone.first.wait(120)
    long.cancel()
    gone.go.set()
    assert [caller.wait()[0] for caller in callers] == expected
    streams.close()
    assert not gone.ended.is_set() and len(gone.pieces) == 1 and streams.writing == 0


def test_a_conversation_continues_from_its_cache(policy: Policy) -> None:
    streams: Streams[Policy] = Streams(lambda each: each.writer)
    (caller,) = _ask(streams, policy, [_encoded(policy, _interaction("same", "hello"))])
    first = caller.wait()[0]
    longer = _encoded(policy, _interaction("same", "hello", first or "x", "and then?"))
    assert policy.writer.cache.kept(longer) > 0
    (cached,) = _ask(streams, policy, [longer])
    text = cached.wait()[0]
    streams.close()
    fresh: Streams[Policy] = Streams(lambda each: each.writer)
    other = packing.Encoded("other", longer.input_ids, longer.position_ids, (), ())
    (uncached,) = _ask(fresh, policy, [other])
    assert uncached.wait()[0] == text
    fresh.close()


def test_conversations_that_continue_and_new_ones_may_come_at_once(policy: Policy) -> None:
    """The first are in the cache of keys and values, the others are not, and their prompts differ in length."""
    fresh = Policy(policy.base, None, policy.features, constrained=False)
    streams: Streams[Policy] = Streams(lambda each: each.writer)
    (first,) = _ask(streams, fresh, [_encoded(fresh, _interaction("old", "hello"))], temperature=0.05)
    first.wait()
    prompts = [
        _encoded(fresh, _interaction("old", "hello", "Sure.", "and then?")),
        *(_encoded(fresh, _interaction(f"new-{n}", text)) for n, text in enumerate(WORDS)),
    ]
    blocker = _Caller()  # while it is written, the others gather
    streams.submit(fresh, prompts[1], Sampling(seed=5, max_tokens=40), blocker)
    callers = _ask(streams, fresh, prompts)
    assert blocker.wait()[2].finish != "error"
    for prompt, caller in zip(prompts, callers, strict=True):
        _, tokens, last = caller.wait()
        assert last.finish != "error"
        assert _given(caller) == pytest.approx(_computed(fresh, prompt, tokens), abs=1e-4)
    streams.close()


def test_a_long_prompt_waits_rather_than_widen_all_others(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "PASS_TOKENS", 200)
    widths: list[int] = []
    plain = streaming._Batch.step

    def step(batch: Any) -> None:
        widths.append(len(batch.rows) * (batch._mask_BP.shape[1] if batch.rows else 0))
        plain(batch)

    monkeypatch.setattr(streaming._Batch, "step", step)
    streams: Streams[Policy] = Streams(lambda each: each.writer)
    texts = ["hello", "word " * 60, "hi", "word " * 70, "yes"]
    callers = _ask(streams, policy, [_encoded(policy, _interaction(f"w{n}", text)) for n, text in enumerate(texts)])
    assert all(caller.wait()[2].finish in ("stop", "length") for caller in callers)
    streams.close()
    assert max(widths) < 2 * 200


def test_clients_that_left_before_their_turn_hold_up_nobody(policy: Policy) -> None:
    streams: Streams[Policy] = Streams(lambda each: each.writer, most=1, queue=3)
    prompt = _encoded(policy, _interaction("c", "hello"))
    first = _Caller()
    streams.submit(policy, prompt, Sampling(max_tokens=60), first)
    for _ in range(50):
        streams.submit(policy, prompt, Sampling(), _Caller()).cancel()
    assert first.wait()[2].finish in ("stop", "length")
    streams.close()


def test_tokens_that_are_no_text_end_no_other_reply(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    class _Fails:
        def __init__(self, **_: Any) -> None: ...

        def step(self, *_: Any) -> str:
            raise RuntimeError("Invalid prefix encountered")

    monkeypatch.setattr(replies, "DecodeStream", _Fails)
    streams: Streams[Policy] = Streams(lambda each: each.writer)
    (caller,) = _ask(streams, policy, [_encoded(policy, _interaction("c", "hello"))])
    text, tokens, last = caller.wait()
    streams.close()
    assert text == "" and len(tokens) > 0 and last.finish != "error" and last.logp is None


def test_a_failure_ends_only_the_replies_of_its_model(policy: Policy) -> None:
    class _Broken:
        def __getattr__(self, name: str) -> Any:
            raise RuntimeError("broken")

    broken: Any = _Broken()
    streams: Streams[Any] = Streams(lambda each: each.writer if isinstance(each, Policy) else policy.writer)
    fine = _ask(streams, policy, [_encoded(policy, _interaction("c", "hello"))])
    bad = _Caller()
    prompt = packing.Encoded("bad", (10**9,), (0,), (), ())  # no such token
    streams.submit(broken, prompt, Sampling(), bad)
    assert bad.wait()[2].finish == "error"
    assert fine[0].wait()[2].finish in ("stop", "length")
    streams.close()


def test_too_many_are_refused(policy: Policy) -> None:
    streams: Streams[Policy] = Streams(lambda each: each.writer, most=1, queue=2)
    prompt = _encoded(policy, _interaction("c", "hello"))
    callers = [_Caller(holds=True)]
    streams.submit(policy, prompt, Sampling(max_tokens=3), callers[0])
    assert callers[0].first.wait(120)
    for _ in range(2):
        callers.append(_Caller())
        streams.submit(policy, prompt, Sampling(max_tokens=3), callers[-1])
    with pytest.raises(OverloadedError):
        streams.submit(policy, prompt, Sampling(), _Caller())
    callers[0].go.set()
    for caller in callers:
        caller.wait()
    streams.close()


@pytest.mark.parametrize("turns", [1, 3])
def test_a_long_prompt_is_read_in_parts_between_the_tokens_of_others(
    policy: Policy, monkeypatch: pytest.MonkeyPatch, turns: int
) -> None:
    """To the same reply; and where its client leaves, the rest of it is not read."""
    said = ["word " * 30, "Yes."] * (turns - 1) + ["another " * 50]
    fresh = Policy(policy.base, None, policy.features, constrained=False)
    streams: Streams[Policy] = Streams(lambda each: each.writer)
    for stop in range(1, len(said), 2):  # what was said before is in the cache
        (earlier,) = _ask(streams, fresh, [_encoded(fresh, _interaction("long", *said[:stop]))])
        earlier.wait()
    prompt = _encoded(fresh, _interaction("long", *said))
    (whole,) = _ask(streams, policy, [prompt])
    expected = whole.wait()

    monkeypatch.setattr(streaming, "PART", 16)
    widths: list[int] = []
    decoder = fresh.model.model
    plain = decoder.forward

    def forward(*args: Any, **given: Any) -> Any:
        widths.append(given["input_ids"].shape[1])
        return plain(*args, **given)

    monkeypatch.setattr(decoder, "forward", forward)
    other = _Caller(holds=True)
    streams.submit(fresh, _encoded(fresh, _interaction("short", "hi")), Sampling(seed=1, max_tokens=40), other)
    assert other.first.wait(120)
    (caller,) = _ask(streams, fresh, [prompt])
    left = _Caller()
    leaving = streams.submit(fresh, _encoded(fresh, _interaction("left", "again " * 90)), Sampling(), left)
    leaving.cancel()
    other.go.set()
    assert caller.wait()[:2] == expected[:2]
    other.wait()
    streams.close()
    parts = [place for place, width in enumerate(widths) if width == 16]
    assert len(parts) >= 3 and all(1 in widths[a:b] for a, b in pairwise(parts))
    assert max(widths[1:]) <= 16 and not left.pieces
