"""The report on conversations: its words, its figures, and turn by turn what hostile users wrote."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from chats import PROFANE, conversations, summary
from reports import SCRIPT

from respect_core.measuring.evidence import Evidence, gather
from respect_core.reporting.conversations import MOST_CHARACTERS, bounded, choose, readable
from respect_core.reporting.report import write
from respect_core.store.base import Store
from respect_core.store.open import open_store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return conversations(tmp_path_factory.mktemp("chats"))


@pytest.fixture(scope="module")
def evidence(store: Store) -> Evidence:
    return gather(store, "mine")


@pytest.fixture(scope="module")
def folder(store: Store, evidence: Evidence, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("report")
    write(evidence, out, store=store, learned=summary())
    return out


class _Visible(HTMLParser):
    """The text that a reader sees or hears, without styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.text: list[str] = []
        self._hidden = False
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self._hidden = tag == "style"
        self.text += [value for name, value in attributes if name in ("alt", "aria-label", "title") and value]

    def handle_endtag(self, tag: str) -> None:
        self._hidden = False

    def handle_data(self, data: str) -> None:
        self.text += [] if self._hidden else [data]


def _text(folder: Path) -> str:
    return " ".join(" ".join(_Visible((folder / "index.html").read_text()).text).split())


def test_it_has_the_words_of_conversations(folder: Path) -> None:
    text = _text(folder)
    assert not re.findall(r"(?i)tangram|click|select|game|speaker", text)
    for said in ("Conversations, turn by turn", "The users' language", "intervals resample users", "in all"):
        assert said in text
    tables = " ".join(file.read_text() for file in (folder / "tables").iterdir())
    drawn = " ".join(file.read_text() for file in (folder / "figures").glob("*.svg"))
    assert not re.findall(r"(?i)tangram|click|select|game|speaker", tables + re.sub(r"<[^>]*>", "", drawn))


def test_it_has_the_figures_that_follow_from_the_data(folder: Path) -> None:
    figures = {file.stem for file in (folder / "figures").glob("*.svg")}
    assert figures == {
        "figure-follow-ups",
        "figure-6",
        "figure-7",
        "figure-14",
    }  # 6 against thumbs; without an outcome none of success
    page = (folder / "index.html").read_text()
    for name in ("follow-ups", "7", "14"):
        assert f'id="figure-{name}"' in page
    assert {file.name for file in (folder / "tables").glob("*-follow-ups.csv")} == {
        f"table-{number}-{label}-follow-ups.csv"
        for number, label in ((21, "negative"), (22, "neutral"), (23, "positive"))
    }
    values = json.loads((folder / "report.json").read_text())["values"]
    (negative,) = (each for each in values if (each["table"], each["row"], each["column"]) == (21, "b-fft", "1"))
    assert negative["value"] == 0.25 and negative["low"] < 0.25 < negative["high"]


def test_follow_ups_by_version_are_clustered_by_user(evidence: Evidence) -> None:
    assert [(each.round, each.policy, each.name) for each in evidence.versions] == [
        (0, "seed", "small-model"),
        (1, "b-fft", "respect.b-fft/1"),
        (1, "b-fft", "respect.b-fft/2"),
    ]
    first = evidence.versions[0].follow_ups
    assert (first.turns, first.users) == (24, 4)
    # One user gave all negatives: by users the share may be 0 to 1, by turns it could not.
    share = first.negative_follow_ups
    assert (share.value, share.low) == (0.25, 0.0) and share.high >= 0.75


def test_the_opening_says_what_users_thought(folder: Path) -> None:
    text = _text(folder)
    assert "In round 1, 25.0% [" in text and "replies of B-FFT were decoded as negative" in text
    assert "From round 0 to round 1, the share of negative follow-ups went from 25.0% [" in text
    assert "Candidates of round 1: 1, probability per token 39.1% on 342 curated turns." in text
    assert "exact match" not in text and "illegal" not in text
    assert "Guard rails:" in text and "<b>9.00 beyond</b>" in (folder / "index.html").read_text()


def test_what_was_set_aside_is_counted_by_reason_without_what_users_wrote(evidence: Evidence, folder: Path) -> None:
    assert evidence.set_aside == {"no reply": {0: 2}, "Input should be a valid string": {0: 1, 1: 1}}
    text = _text(folder)
    assert "Input should be a valid string 1 1 2" in text and PROFANE not in text


def test_conversations_are_escaped_bounded_and_readable(store: Store, folder: Path) -> None:
    page, text = (folder / "index.html").read_text(), _text(folder)
    assert SCRIPT not in page and SCRIPT in text
    assert '→ set_light(room="hall", on=true)' in text and "tool ok" in text
    assert f"… ({5000 - MOST_CHARACTERS:,} more characters)" in text
    assert "\u202e" not in page and "decoded as negative , score -3.0" in text
    assert "the user's own thumb is up" in text
    headings = [talk.heading for talk in choose(store, ["b-fft"])]
    assert "A complaint, and a reply that met it" in headings and "A reply with tools" in headings
    assert "The user's thumb and the decoded label differ" in headings and len(headings) == len(set(headings))
    assert all(len(talk.exchanges) <= 6 for talk in choose(store, ["b-fft"]))


def test_without_a_store_nothing_that_anybody_wrote_is_shown(evidence: Evidence, tmp_path: Path) -> None:
    write(evidence, tmp_path)
    text = _text(tmp_path)
    assert "turn by turn" not in text and "light" not in text


@pytest.mark.parametrize(
    "line", ["CALL", 'CALL {"name": 1', "CALL []", 'CALL {"name": "f", "arguments": [1]}', "hello"]
)
def test_what_is_no_call_stays_as_it_is(line: str) -> None:
    assert readable(line) == line


def test_unseen_characters_are_seen() -> None:
    assert bounded("a\u202eb\x00c\u200bd\n\te") == "a\ufffdb\ufffdc\ufffdd\n\te"


def test_nothing_to_show_in_an_empty_store(tmp_path: Path) -> None:
    assert choose(open_store(str(tmp_path)), []) == []
