"""The whole report: files, page, what changed."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import pytest
from reports import SCRIPT, annotations, deployment, lost, round_summary

from respect_core.log.export import export_everything
from respect_core.log.log import append_logs
from respect_core.measuring.evidence import gather
from respect_core.reporting import report
from respect_core.reporting.report import write
from respect_core.store.base import Store

MADE = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)


@pytest.fixture
def played(tmp_path: Path) -> Store:
    return deployment(tmp_path / "store")


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take seconds."""
    monkeypatch.setattr(report, "draw", lambda *_: {})


class _Page(HTMLParser):
    """What a page refers to, its ids, and the labels of what is drawn."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.ids: list[str] = []
        self.scripts = 0
        self.unlabelled = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        self.scripts += tag == "script"
        self.links += [str(given[name]) for name in ("src", "href") if given.get(name)]
        self.ids += [str(given["id"])] if given.get("id") else []
        self.unlabelled += given.get("role") == "img" and not given.get("aria-label")
        self.unlabelled += tag == "img" and not given.get("alt")


def test_a_report_in_files(played: Store, tmp_path: Path) -> None:
    out = tmp_path / "report"
    assert write(gather(played, "mine"), out, store=played, facts={"Profile": "tiny"}, made=MADE) is None
    made = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    tables = ["2-success", "3-turns-per-game", "4-click-accuracy", "6-vocabulary", "7-utterance-length"]
    tables += ["8-resets", "9-try-agains"]
    assert made == sorted(
        ["index.html", "report.json"]
        + [f"figures/figure-{number}.{ending}" for number in (4, 6, 7, 14) for ending in ("png", "svg")]
        + [f"tables/table-{name}.{ending}" for name in tables for ending in ("csv", "md")]
    )
    numbers = json.loads((out / "report.json").read_text())
    assert (numbers["name"], numbers["made"]) == ("mine", "2026-01-02 03:04 UTC")
    (success,) = (v for v in numbers["values"] if (v["table"], v["row"], v["column"]) == (2, "b-fft", "1"))
    assert success["value"] == 0.75 and success["low"] < 0.75 < success["high"]


def test_the_page_needs_nothing_and_takes_nothing_from_users_as_it_is(played: Store, tmp_path: Path) -> None:
    write(gather(played, "<b>mine</b>"), tmp_path / "report", store=played, facts={"Profile": SCRIPT}, made=MADE)
    text = (tmp_path / "report" / "index.html").read_text()
    page = _Page(text)
    assert page.scripts == 0 and SCRIPT not in text and "&lt;script&gt;" in text and "<b>mine</b>" not in text
    assert "the boat &amp; the cup" in text
    assert page.links and all(link.startswith("data:image/svg+xml;base64,") for link in page.links)  # the figures
    assert len(page.ids) == len(set(page.ids)) and page.unlabelled == 0
    assert "@import" not in text and "url(http" not in text


def test_the_page_says_what_was_found_and_what_is_missing(played: Store, tmp_path: Path) -> None:
    write(gather(played, "mine"), tmp_path, store=played, made=MADE)
    text = (tmp_path / "index.html").read_text()
    assert "From round 0 to round 1, the share of games that B-FFT won went from 25.0% [" in text
    assert "; the intervals overlap." in text and "The seed policy, deployed again in round 1, won 25.0% [" in text
    assert text.index('id="figure-4"') < text.index('id="table-2"')  # the curve first
    assert "Table 5 and figure 5 are left out: nobody annotated these turns." in text
    assert "labels derived from the game&#39;s targets" in text
    assert "Figure 15 is left out" in text and "This is the first report in its folder" in text


def test_the_page_of_a_round_begins_with_what_its_candidates_learned(
    played: Store, tmp_path: Path, no_figures: None
) -> None:
    summary = round_summary(games=12, positives=9)
    summary["failed"] = {"t-rl": SCRIPT}
    write(gather(played, "mine"), tmp_path, made=MADE, learned=summary)
    text = (tmp_path / "index.html").read_text()
    first = text.index("Candidates of round 0: 2, exact match 45.6 to 48.0%")
    table = text.index("45.6%<small>[40.1, 51.0]</small>")
    assert text.index("<h1>") < first < table < text.index("What was run")
    assert first < text.index("From round 0 to round 1, the share of games that B-FFT won")
    few = "50.0%<small>[25.0, 75.0]\ntoo little (12)</small>"
    refused = "B-FFT would not pass the gate: it learned from 9 turns."
    for said in ("4 of 342", few, refused):
        assert table - 3000 < text.index(said) < text.index("What was run")
    assert SCRIPT not in text
    write(gather(played, "mine"), tmp_path, made=MADE)
    assert "candidates" not in (tmp_path / "index.html").read_text()


def test_annotated_turns_bring_table_5_and_figure_5(played: Store, tmp_path: Path) -> None:
    rows = [("g0", 0, "ann", "select D", "no"), ("g0", 1, "ann", "deselect C select D", "yes")]
    annotations(played, 0, "seed", rows)
    write(gather(played, "mine", f=lambda a, b: float(a == b)), tmp_path, made=MADE)
    text = (tmp_path / "index.html").read_text()
    assert 'id="figure-5"' in text and 'id="table-5"' in text and "left out: nobody annotated" not in text
    assert "annotators&#39; judgements of whether the speaker was satisfied" in text
    assert (tmp_path / "tables" / "table-5-turns.md").read_text().count("50.0 [") >= 2


def test_without_a_store_no_game_is_shown(played: Store, tmp_path: Path, no_figures: None) -> None:
    write(gather(played, "mine"), tmp_path, made=MADE)
    text = (tmp_path / "index.html").read_text()
    assert "turn by turn" not in text and "boat" not in text and "data:image" not in text and "user-0" not in text


def test_games_without_pictures_are_not_drawn_and_the_page_says_so(
    played: Store, tmp_path: Path, no_figures: None
) -> None:
    played.delete("images/image-A.png")
    write(gather(played, "mine"), tmp_path, store=played, made=MADE)
    text = (tmp_path / "index.html").read_text()
    assert "games are not drawn turn by turn: the store lacks pictures of what they were about." in text
    assert "<article" not in text and "the boat &amp; the cup" not in text


def test_what_changed_is_told_and_the_same_again_changes_nothing(
    played: Store, tmp_path: Path, no_figures: None
) -> None:
    write(gather(played, "mine", systems=["b-fft"], up_to=0), tmp_path, made=MADE)
    changes = write(gather(played, "mine", systems=["b-fft"], up_to=0), tmp_path, made=MADE.replace(hour=4))
    assert changes is None
    later = MADE.replace(hour=5)
    append_logs(played, [lost(number, 2, "b-fft") for number in range(9)])
    export_everything(played)
    changes = write(gather(played, "mine"), tmp_path, made=later)
    assert changes is not None and changes.since == "2026-01-02 04:04 UTC"
    assert (2, "b-fft", "2") in changes.new and not changes.gone
    text = (tmp_path / "index.html").read_text()
    assert "Against the report of 2026-01-02 04:04 UTC" in text and "New in table 2: B-FFT 1, B-FFT 2" in text
    before = (tmp_path / "index.html").read_bytes()
    assert write(gather(played, "mine"), tmp_path, made=later) == changes
    assert (tmp_path / "index.html").read_bytes() == before
