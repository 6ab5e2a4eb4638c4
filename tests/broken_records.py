"""Log records that cannot be used, and what is said about them."""

from __future__ import annotations

from samples import line

TURN = {"utterance": "a boat", "action": "select A"}


BROKEN: list[tuple[str, bytes, str, str]] = [
    ("truncated", line()[:-20], "", "not JSON"),
    ("not JSON", b"<html>\n", "", "not JSON"),
    ("deep", b"[" * 100_000, "", "not JSON"),
    ("a list", b"[1]\n", "", "JSON list, not an object"),
    ("UTF-8", line().replace(b"boat", b"b\xff\xfet"), "", "invalid UTF-8 at byte"),
    ("wrong type", line(round="5"), "round", "valid integer, not '5'"),
    ("nested wrong type", line(turns=[TURN | {"probability": "high"}]), "turns[0].probability", "valid number"),
    ("probability", line(turns=[TURN | {"probability": 1.5}]), "turns[0].probability", "less than or equal to 1"),
    ("absent field", line(user=None), "user", "required"),
    ("surplus field", line(target="image-A"), "target", "not permitted"),
    ("version", line(schema_version=2), "schema_version", "version 2 is not known"),
    ("version type", line(schema_version="1"), "schema_version", "version '1' is not known"),
    ("letter", line(turns=[TURN | {"action": "select K"}]), "turns[0].action", "not in the action language"),
    ("illegal", line(turns=[TURN | {"action": "deselect A"}]), "turns[0].action", "not selected in state"),
    ("canonical", line(turns=[TURN | {"action": "select B A"}]), "turns[0].action", "write 'select A B'"),
    ("twice", line(turns=[TURN, TURN]), "turns[1].action", "already selected"),
    ("empty utterance", line(turns=[TURN | {"utterance": ""}]), "turns[0].utterance", "at least 1 character"),
    ("blank utterance", line(turns=[TURN | {"utterance": " "}]), "turns[0].utterance", "blank"),
    ("no turns", line(turns=[]), "turns", "at least 1 item"),
    ("time", line(started_at="yesterday"), "started_at", "Invalid isoformat"),
    ("targets", line(outcome={"targets": ["x"], "success": True}), "outcome.targets", "not in context"),
    ("context", line(context=["a", "a"]), "context", "names an image twice"),
]
