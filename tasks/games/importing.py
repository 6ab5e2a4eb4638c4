"""Import games into the store, with a share kept for validation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from respect_core.log import imports, user_key
from respect_core.log.imports import ImportRecord
from respect_core.log.records import InteractionLog, PolicyIdentity
from respect_core.measuring import annotation_tasks
from respect_core.scenarios.multiref.importers.games import UNKNOWN_POLICY, ImportReport
from respect_core.scenarios.multiref.importers.games import import_games as import_into
from respect_core.store.manifests import Partition
from respect_core.training_data import curated
from respect_core.variants import ACTING, HH, SEED
from tasks.support.workspace import Workspace

KNOWN = (*ACTING, HH, SEED)
"""Names whose games a log may have: policies, people with each other, and the seed policy, which acts in round 0."""


@dataclass(frozen=True)
class Imported:
    """What an import did."""

    report: ImportReport
    held_now: int = 0  # games that the import added to the game set
    held_in_all: int = 0  # games of that set


def import_games(
    workspace: Workspace,
    file: Path,
    tangrams: Path,
    *,
    round: int,
    variant: str,
    acted_by: str | None = None,
    game_set: str | None = None,
    share: float = 0.2,
) -> Imported:
    """Import the authors' games into a round's log: the whole file, or nothing of it.

    Args:
        acted_by: registered version that acted, e.g. 'respect.b-fft/3', if known.
        game_set: also add a share of the games to the set of this name. They are chosen by a hash of their id, so that
            importing again chooses the same games. The gate's are from the other end, and so no other set's.
        share: that share.

    Raises:
        ValueError: a bad file (PickleError); nobody is called `variant`; `acted_by` is not registered; games are
            already in the log of another round or variant; the share has no games, or games that `game_sets.add`
            refuses; the store's users have pseudonyms under another RESPECT_USER_KEY (KeyChangedError).
        StoreError: no folder of tangrams, or the store cannot be written.
    """
    if variant not in KNOWN:
        raise ValueError(f"no variant {variant!r}; there are: {', '.join(KNOWN)}")
    store, held = workspace.open(), list[str]()

    def check(logs: Sequence[InteractionLog]) -> None:
        if logs:
            imports.require_new(store, logs)
            user_key.claim(store)
        if logs and game_set:  # before they are in the log, so that no round learns from them in between
            chosen = [log for log in logs if _is_held(log.interaction_id, game_set, share)]
            held.extend(curated.add(store, game_set, chosen))

    policy = _policy(workspace, acted_by) if acted_by else UNKNOWN_POLICY
    report = import_into(store, file, tangrams, round, variant, policy=policy, check=check)
    if report.log:
        record = ImportRecord(
            log=report.log,
            file=file.name,
            games=report.games,
            problems=report.problems,
            held={game_set: held} if game_set else {},
        )
        imports.note(store, record)
    return Imported(report, len(held), len(curated.read(store, game_set)) if game_set and report.log else 0)


def _is_held(interaction_id: str, game_set: str, share: float) -> bool:
    place = curated.place(interaction_id)
    return place >= 1 - share if game_set == curated.GATE else place < share


def undo_import(workspace: Workspace, name: str) -> tuple[ImportRecord, list[Partition]]:
    """Undo an import; games that it added to game sets go too, unless they are in the log for another reason.

    Conversations drawn for an audit of its round and variant must be drawn again; what people answered stays.

    Returns:
        What was undone, and the training sets that were made from its round and variant, which stay.

    Raises:
        ValueError: no import's name begins with `name`, or several do; or as `imports.undo` does.
    """
    store = workspace.open()
    record = imports.find(store, name)
    annotation_tasks.discard(store, record.partition)
    trained = imports.undo(store, record)
    for game_set, ids in record.held.items():
        curated.remove(store, game_set, set(ids) - imports.places(store, ids).keys())
    imports.forget(store, record)
    return record, trained


def _policy(workspace: Workspace, acted_by: str) -> PolicyIdentity:
    from tasks.registry import registry  # MLflow takes seconds to import, and most imports do not need it

    version = registry.named(workspace, acted_by)
    return PolicyIdentity(name=version.name, version=str(version.version), adapter_hash=version.tags["adapter_hash"])
