"""Import chat logs: parts for a round to learn from, for D0, to choose checkpoints by, and to judge candidates by."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp

from respect_core.errors import ExpectedError
from respect_core.log import imports, user_key
from respect_core.log.imports import ImportRecord
from respect_core.log.lengths import Ruler
from respect_core.log.log import SET_ASIDE, Problem, RecordError, append_logs, new_lines
from respect_core.log.records import InteractionLog, turn_rows
from respect_core.profiles import Profile
from respect_core.scenario import scenario
from respect_core.scenarios.chat.importers import Conversation, Imported, read_conversations
from respect_core.scenarios.chat.importers.files import ChatLogError, is_log
from respect_core.scenarios.chat.logs import Writer
from respect_core.scenarios.chat.logs import curated as as_curated
from respect_core.store.manifests import Partition
from respect_core.store.open import open_store
from respect_core.training_data import curated
from respect_core.variants import SEED, DecoderKind
from tasks.support import progress
from tasks.support.workspace import Workspace

MOST_CURATED = 200
"""Conversations that D0 and the validation set get at most: more would cost time at every checkpoint."""


class NothingImportedError(ExpectedError):
    """No conversation of an import can be used. The message says why."""


@dataclass
class ImportedChats:
    """What an import of chat logs did."""

    understood: Imported
    learned_from: int = 0  # conversations in the log
    held: dict[str, int] = field(default_factory=dict)  # conversations by game set
    problems: str | None = None  # key of the records set aside


@contextmanager
def local(paths: Sequence[str | Path]) -> Iterator[list[Path]]:
    """Yield the paths with copies of what lies on S3, which are deleted at the end.

    Raises:
        ChatLogError: nothing is stored under an s3:// URI.
        StoreError: the bucket cannot be read.
    """
    with TemporaryDirectory(prefix="respect-import-") as scratch:
        result = []
        for path in map(str, paths):
            if not path.startswith(_S3):
                result.append(Path(path))
                continue
            bucket, _, prefix = path.removeprefix(_S3).partition("/")
            store, folder = open_store(_S3 + bucket), prefix and prefix.rstrip("/") + "/"
            keys = [key for key in store.keys(prefix) if key == prefix or (key.startswith(folder) and is_log(key))]
            if not keys:
                raise ChatLogError(f"{path}: no such object, and no log in a folder of that name; check the bucket")
            for key in keys:  # in a folder of its own: names of objects are anybody's
                copy = Path(mkdtemp(dir=scratch)) / key.rpartition("/")[2]
                with store.open(key) as source, copy.open("wb") as target:
                    shutil.copyfileobj(source, target)
                result.append(copy)
        yield result


_S3 = "s3://"


def import_chats(
    workspace: Workspace,
    paths: Sequence[str | Path],
    profile: Profile,
    *,
    format: str | None = None,
    redact: bool = True,
    round: int = 0,
    variant: str = SEED,
    d0_share: float = 0.1,
    validation_share: float = 0.2,
    gate_share: float = 0.2,
) -> ImportedChats:
    """Import conversations: all of them, or nothing where one cannot be stored.

    Users are divided by a hash of their pseudonym, so that none is in two of D0, the validation set and the gate's. Of
    the users of each share, conversations with a follow-up that is decoded as positive make the set: the replies before
    such follow-ups count as right. The users' other conversations, and those beyond MOST_CURATED, are learned from.

    Args:
        paths: files, folders, patterns, or s3:// URIs of objects or folders.
        format: of the files; found out by default.
        redact: mask personal data before anything is stored.
        d0_share, validation_share, gate_share: shares of users; 0 leaves that set as it is.

    Raises:
        NothingUsableError: no record of the files can be used.
        ValueError: shares that leave nobody to learn from; conversations are in the log of another round or variant; or
            the store's users have pseudonyms under another RESPECT_USER_KEY (KeyChangedError).
        StoreError: the store cannot be written, or a bucket not be read.
    """
    from respect_core.model.base import load_processor

    if (held_out := d0_share + validation_share + gate_share) >= 1:
        raise ValueError(f"the shares of users held out add up to {held_out:g}: leave some to learn from")
    store, partition = workspace.open(), Partition(round, variant)
    writer = Writer(round, variant, Ruler(load_processor(profile.base), scenario(profile.scenario)))
    with new_lines(store, partition.folder(SET_ASIDE)) as problems, local(paths) as files:
        understood = Imported(on_problem=lambda problem: problems.add(problem.to_json()))
        logs: dict[str, InteractionLog] = {}
        for conversation in read_conversations(files, format, redact, understood):
            log = _record(writer, conversation, understood)
            if log is not None:
                logs[log.interaction_id] = log
        if not logs:
            raise NothingImportedError(str(understood))
        imports.require_new(store, list(logs.values()))
        user_key.claim(store)
        set_aside = problems.put(partition.folder(SET_ASIDE) + "import-") if problems.count else None
    result, held = ImportedChats(understood, problems=set_aside), dict[str, list[str]]()
    learning_share = d0_share + validation_share
    shares = {
        curated.D0: (0.0, d0_share, MOST_CURATED),
        curated.VALIDATION: (d0_share, learning_share, MOST_CURATED),
        curated.GATE: (learning_share, learning_share + gate_share, None),
    }
    sets = {
        name: [log for log in logs.values() if low <= curated.place(log.user) < high][:most]
        for name, (low, high, most) in shares.items()
    }
    right = _right_turns(profile, [log for chosen in sets.values() for log in chosen])
    for name, chosen in sets.items():
        curated_logs = [
            as_curated(logs.pop(log.interaction_id), sorted(right[log.interaction_id]))
            for log in chosen
            if log.interaction_id in right
        ]
        if curated_logs:  # before the rest is in the log, so that no round learns from them in between
            held[name] = curated.add(store, name, curated_logs)
            result.held[name] = len(curated_logs)
    result.learned_from = len(logs)
    if logs:
        key = append_logs(store, logs.values())
        record = ImportRecord(
            log=key,
            file=", ".join(file.name for file in files),
            games=len(logs),
            problems=set_aside,
            held=held,
        )
        imports.note(store, record)
    return result


def _record(writer: Writer, conversation: Conversation, understood: Imported) -> InteractionLog | None:
    try:
        return writer.record(conversation)
    except RecordError as error:
        understood.put_aside(Problem(*conversation.source, error.field, error.reason, error.remedy))
        return None


def _right_turns(profile: Profile, logs: Sequence[InteractionLog]) -> dict[str, set[int]]:
    """Return, by conversation, the replies whose follow-up is decoded as positive, or that the user gave a thumb up."""
    from respect_core.feedback import decoder

    rows = [row for log in logs for row in turn_rows(log)]
    right: dict[str, set[int]] = {}
    for row in rows:
        if row["explicit"] == 1:
            right.setdefault(row["interaction_id"], set()).add(row["turn"])
    if any(row["follow_up"] for row in rows):
        with progress.bar("decode follow-ups") as bar:
            decoded = decoder.FeedbackDecoder(decoder.named(profile.feedback_decoder))
            for row in decoded.decode(rows, (DecoderKind.TERNARY.value,), bar.update):
                if row["label"] == 1 and row["marked"] is None:
                    right.setdefault(row["interaction_id"], set()).add(row["turn"])
    return right
