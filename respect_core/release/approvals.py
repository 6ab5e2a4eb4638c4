"""Define a person's answer to a promotion that waits: sealed, so that who answered is who signed in.

An answer counts for one question of one run. The approvals page seals with RESPECT_LINK_KEY for those whom a link or
a proxy identified; `respect approve` with a key that only the account that owns the run's folder can read. Whoever
runs the workers has both keys, and is trusted.
"""

from __future__ import annotations

import os
import pwd
import secrets
import stat
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from respect_core.errors import ExpectedError
from respect_core.signatures import SealError, seal, unseal

Identified = Literal["proxy", "link", "account"]
ACCOUNT_KEY = "approval.key"
_BY_PAGE, _BY_ACCOUNT = "answer of the approvals page", "answer of an account"


class AnswerRefusedError(ExpectedError, ValueError):
    """An answer that does not count; the message says why, and how to answer."""


class Person(NamedTuple):
    """Somebody, and what says that it is they."""

    name: str
    identified: Identified

    def __str__(self) -> str:
        return f"{self.name} ({self.identified})"


class Answer(BaseModel):
    """A person's answer to one question of one flow run."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    run: str
    question: str  # hash of what is asked
    approve: bool
    name: str
    identified: Identified
    note: str = ""
    time: str  # ISO 8601, UTC

    @property
    def person(self) -> Person:
        """Who answered."""
        return Person(self.name, self.identified)


def answer(person: Person, key: str, *, run: str, question: str, approve: bool, note: str = "") -> str:
    """Return a sealed answer, as the run takes it."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    given = Answer(run=run, question=question, approve=approve, note=note, time=now, **person._asdict())
    return seal(key, _BY_ACCOUNT if person.identified == "account" else _BY_PAGE, given.model_dump())


def verified(text: str, *, run: str, question: str, root: Path, link_key: str | None) -> Answer:
    """Return the answer that a sealed text holds.

    Args:
        root: folder of the run, which may have an account's key.

    Raises:
        AnswerRefusedError: it is not sealed, not by a key of this installation, or not for this question.
    """
    if not text:
        raise AnswerRefusedError(
            "nobody signed it: answer on the approvals page, or with `respect approve`, not in Prefect's form"
        )
    account = existing_key(root)
    keys = {_BY_PAGE: link_key, _BY_ACCOUNT: account[1] if account else None}
    for purpose, key in keys.items():
        try:
            given = Answer(**unseal(key, purpose, text)) if key else None
        except (SealError, ValidationError):
            continue
        if given is None:
            continue
        if (given.run, given.question) != (run, question):
            raise AnswerRefusedError("it was signed for another question; load the approvals page again")
        if purpose == _BY_ACCOUNT and (account is None or given.person != Person(account[0], "account")):
            raise AnswerRefusedError("the account that signed it does not own the run's folder")
        return given
    known = "" if link_key else "; this worker has no RESPECT_LINK_KEY, without which the page's answers do not count"
    raise AnswerRefusedError(f"its signature is not of this installation{known}")


def account(uid: int | None = None) -> str:
    """Return the name of an account of this machine, whatever the environment says; by default the process's."""
    number = os.getuid() if uid is None else uid
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:  # a container's user may have no name
        return f"uid {number}"


def account_key(root: Path) -> tuple[str, str]:
    """Return who owns a run's folder and their key, which is made if absent.

    Raises:
        AnswerRefusedError: somebody else's, or others can read it.
    """
    path = root / ACCOUNT_KEY
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        pass
    else:
        with os.fdopen(file, "w") as opened:
            opened.write(secrets.token_hex(32))
    if (found := existing_key(root)) is None:
        raise AnswerRefusedError(f"{path}: must be a file of yours that nobody else can read; delete it and try again")
    return found


def existing_key(root: Path) -> tuple[str, str] | None:
    """Return the owner and the key of a run's folder; None if it has none, or not one that only this account reads."""
    try:
        file = os.open(root / ACCOUNT_KEY, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return None
    with os.fdopen(file) as opened:
        found, key = os.fstat(file), opened.read()
    if not stat.S_ISREG(found.st_mode) or found.st_mode & 0o077 or found.st_uid != os.getuid() or len(key) < 32:
        return None
    return account(found.st_uid), key
