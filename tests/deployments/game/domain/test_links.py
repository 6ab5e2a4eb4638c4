"""Participants' links: each is for one participant of one study, for a time, under one key."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

from deployments.game.domain.links import is_signed, participant_link

KEY = "a-link-key-of-many-characters"


def test_a_link_is_for_one_participant_of_one_study() -> None:
    link = urlsplit(participant_link("http://127.0.0.1:8080/", "round-1", "p 1&é", 1, KEY))
    assert (link.path, link.query) == ("/", ""), "what names somebody reaches no log"
    found = {name: values[0] for name, values in parse_qs(link.fragment).items()}
    until, signature = int(found["until"]), found["signature"]
    assert (found["study"], found["participant"]) == ("round-1", "p 1&é")
    assert is_signed("round-1", "p 1&é", until, signature, KEY)
    for wrong in (
        ("round-2", "p 1&é", until, signature, KEY),
        ("round-1", "p2", until, signature, KEY),
        ("round-1", "p 1&é", until + 1, signature, KEY),
        ("round-1", "p 1&é", until, signature[:-1], KEY),
        ("round-1", "p 1&é", until, None, KEY),
        ("round-1", "p 1&é", None, signature, KEY),
        ("round-1", "p 1&é", until, signature, "another-key-of-many-characters"),
    ):
        assert not is_signed(*wrong)
    late = parse_qs(urlsplit(participant_link("http://here", "s", "p", -1, KEY)).fragment)
    assert not is_signed("s", "p", int(late["until"][0]), late["signature"][0], KEY), "its time is over"
