"""An answer counts if it was signed here, for this question of this run, by who it says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from respect_core.release.approvals import (
    ACCOUNT_KEY,
    AnswerRefusedError,
    Person,
    account,
    account_key,
    answer,
    verified,
)
from respect_core.signatures import seal

KEY = "a-link-key-of-many-characters"
ASKED: dict[str, Any] = {"run": "run-1", "question": "hash"}


def test_an_answer_of_the_page_says_who_gave_it_and_how_they_were_known(tmp_path: Path) -> None:
    for identified in ("link", "proxy"):
        text = answer(Person("ann", identified), KEY, approve=True, note="looked at it", **ASKED)
        given = verified(text, root=tmp_path, link_key=KEY, **ASKED)
        assert given.approve and given.note == "looked at it" and str(given.person) == f"ann ({identified})"


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"run": "run-2"}, "another question"),
        ({"question": "hash-1"}, "another question"),
        ({"link_key": "another-link-key-of-many-characters"}, "not of this installation"),
        ({"link_key": None}, "no RESPECT_LINK_KEY"),
    ],
)
def test_it_counts_for_nothing_else(tmp_path: Path, changed: dict[str, Any], reason: str) -> None:
    text = answer(Person("ann", "link"), KEY, approve=True, **ASKED)
    with pytest.raises(AnswerRefusedError, match=reason):
        verified(text, root=tmp_path, **{"link_key": KEY, **ASKED, **changed})


def test_what_nobody_signed_is_refused(tmp_path: Path) -> None:
    for text, reason in (("", "nobody signed it"), ("approve", "not of this"), (seal(KEY, "link", {}), "not of this")):
        with pytest.raises(AnswerRefusedError, match=reason):
            verified(text, root=tmp_path, link_key=KEY, **ASKED)


def test_an_account_signs_as_itself_with_a_key_that_only_it_can_read(tmp_path: Path) -> None:
    name, key = account_key(tmp_path)
    assert name == account() and account_key(tmp_path) == (name, key)
    file = tmp_path / ACCOUNT_KEY
    assert file.stat().st_mode & 0o777 == 0o600
    text = answer(Person(name, "account"), key, approve=False, **ASKED)
    assert str(verified(text, root=tmp_path, link_key=None, **ASKED).person) == f"{name} (account)"
    other = answer(Person("root-or-so", "account"), key, approve=True, **ASKED)
    with pytest.raises(AnswerRefusedError, match="does not own"):
        verified(other, root=tmp_path, link_key=KEY, **ASKED)
    forged = answer(Person("ann", "link"), key, approve=True, **ASKED)  # with the account's key, as if by the page
    with pytest.raises(AnswerRefusedError, match="not of this installation"):
        verified(forged, root=tmp_path, link_key=KEY, **ASKED)
    as_account = answer(Person(name, "account"), KEY, approve=True, **ASKED)
    with pytest.raises(AnswerRefusedError, match="not of this installation"):
        verified(as_account, root=tmp_path, link_key=KEY, **ASKED)

    file.chmod(0o640)
    with pytest.raises(AnswerRefusedError, match="not of this installation"):
        verified(text, root=tmp_path, link_key=KEY, **ASKED)
    with pytest.raises(AnswerRefusedError, match="nobody else can read"):
        account_key(tmp_path)


def test_a_key_behind_a_link_of_the_file_system_is_none(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("0" * 64)
    (tmp_path / "key").chmod(0o600)
    (tmp_path / ACCOUNT_KEY).symlink_to(tmp_path / "key")
    with pytest.raises(AnswerRefusedError):
        account_key(tmp_path)
