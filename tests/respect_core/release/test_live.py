"""What replies and labels say of the versions that are served, and of pairs of them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from respect_core.measuring.follow_ups import Said, compare
from respect_core.release.live import PAIRS, VERSIONS, ServedReply, pairs, versions

OLD, NEW, SEED = "respect.b-fft/9", "respect.b-fft/10", "respect.seed/1"


def _reply(conversation: int, turn: int = 0, version: str = NEW, **fields: object) -> ServedReply:
    """One of a conversation's replies, between keys that count them; a new user every two conversations."""
    made = ServedReply(
        interaction=f"chat-{conversation}-{turn}",
        conversation=f"c{conversation}",
        user=f"u{conversation // 2}",
        variant="b-fft" if "b-fft" in version else "control",
        version=version,
        offered=(NEW, SEED),
        time=f"2026-11-30T10:{conversation // 60:02}:{conversation % 60:02}.{turn}",
        cut=False,
        first_token=0.1 * (turn + 1),
        seconds=1.0 + turn,
        before=str(turn),
        after=str(turn + 1),
    )
    return replace(made, **fields)  # type: ignore[arg-type]  # any field


def test_a_version_by_hand() -> None:
    """Three conversations: of three replies, of two whose last is cut, of one."""
    replies = [_reply(0, 0), _reply(0, 1), _reply(0, 2), _reply(1, 0), _reply(1, 1, cut=True), _reply(2, 0)]
    (found,) = versions(replies, {"chat-0-0": [-1, 1], "chat-1-0": [None]}, {("b-fft", NEW)})
    assert (found.variant, found.version, found.on_offer) == ("b-fft", NEW, True)
    assert (found.conversations, found.users, found.replies, found.cut) == (3, 2, 6, 1)
    assert (found.follow_ups, found.decoded, found.set_aside, found.waiting) == (3, 2, 1, 0)
    assert found.signs == {"negative": 1, "neutral": 0, "positive": 1}
    assert found.said is not None and found.said.negative_follow_ups.value == 0.5
    assert found.first_token == pytest.approx(0.15) and found.seconds == 1.0, "whole replies alone"


def test_a_reply_written_again_has_one_follow_up_and_one_to_a_cut_reply_is_none() -> None:
    again = [_reply(0, 0), _reply(0, 1), _reply(0, 1, after="another"), _reply(0, 1, before="1", after="edited")]
    assert versions(again, {}, ())[0].follow_ups == 1
    cut = [_reply(0, 0, cut=True), _reply(0, 1)]
    assert versions(cut, {}, ())[0].follow_ups == 0


def test_a_version_without_replies_is_on_offer_and_those_that_replied_long_ago_are_left_out() -> None:
    replies = [_reply(number, version=f"respect.b-fft/{number}") for number in range(2 * VERSIONS)]
    found = versions(replies, {}, {("control", SEED), ("b-fft", "respect.b-fft/0")})
    assert len(found) == VERSIONS and {each.version for each in found[:2]} == {SEED, "respect.b-fft/0"}
    assert [each.version for each in found[2:]] == [
        f"respect.b-fft/{number}" for number in range(VERSIONS + 2, 2 * VERSIONS)
    ], "in the same order at each look"
    (none,) = [each for each in found if each.version == SEED]
    assert (none.replies, none.said, none.first_token, none.seconds) == (0, None, None, None)


def test_pairs_are_compared_as_respect_compare_does() -> None:
    """Only where both were on offer; the seed policy first, and older versions before newer ones."""
    replies, labels, said = [], {}, {NEW: list[Said](), SEED: list[Said]()}
    for number in range(40):
        version = (SEED, NEW)[number % 2]
        replies += [_reply(number, turn, version) for turn in (0, 1)]
        labels[f"chat-{number}-0"] = [-1 if number % 3 else 1]
        said[version].append(Said(f"u{number // 2}", -1 if number % 3 else 1))
    chosen = [_reply(99, turn, offered=()) for turn in (0, 1)]
    labels["chat-99-0"] = [-1]
    measured = versions(replies + chosen, labels, ())
    (found,) = pairs(replies + chosen, labels, measured, resamples=500)
    assert found.versions == (SEED, NEW) and found.conversations == (20, 20)
    assert found.compared == compare(said[SEED], said[NEW], conversations=(20, 20), resamples=500)
    older = [_reply(0, version=OLD, offered=(NEW, OLD)), _reply(1, offered=(NEW, OLD))]
    (silent,) = pairs(older, {}, versions(older, {}, ()))
    assert silent.versions == (OLD, NEW) and silent.compared is None and silent.conversations == (1, 1)


def test_pairs_are_bounded() -> None:
    names = tuple(f"respect.b-fft/{number}" for number in range(6))
    replies = [_reply(number, version=name, offered=names) for number, name in enumerate(names)]
    assert len(pairs(replies, {}, versions(replies, {}, ()))) == PAIRS
