"""What comes from elsewhere into the store: games, with a share kept for validation, and the released dataset."""

from __future__ import annotations

import hashlib
from pathlib import Path

from respect_core import user_key
from respect_core.importers.games import UNKNOWN_POLICY, ImportReport
from respect_core.importers.games import import_games as import_into
from respect_core.importers.released import ReleasedReport
from respect_core.importers.released import import_released as import_released_into
from respect_core.interaction import PolicyIdentity
from respect_core.interaction_log import read_logs
from respect_core.released import ExportedRows
from respect_core.released import export_released as export_released_from
from tasks import game_sets
from tasks.workspace import Workspace


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
) -> ImportReport:
    """Import the authors' games into a round's log.

    Args:
        acted_by: registered version that acted, e.g. 'respect.b-fft/3', where it is known.
        game_set: keep a share of the games under this name too; chosen by a hash of their id, so that importing
            again chooses the same.
        share: that share.

    Raises:
        ValueError: a bad file (PickleError), `acted_by` is not registered, or the store's users have pseudonyms under
            another RESPECT_USER_KEY (KeyChangedError).
        StoreError: no folder of tangrams, or the store cannot be written.
    """
    store = workspace.open()
    user_key.claim(store)
    policy = _policy(workspace, acted_by) if acted_by else UNKNOWN_POLICY
    report = import_into(store, file, tangrams, round, variant, policy=policy)
    if game_set and report.log:
        kept = [log for log in read_logs(store, report.log) if _in_share(log.interaction_id, share)]
        game_sets.write(store, game_set, kept)
    return report


def import_released(workspace: Workspace, source: str, tangrams: Path | None = None) -> ReleasedReport:
    """Import the released dataset, from a folder or the hub. Raises as `importers.released.import_released` does."""
    return import_released_into(workspace.open(), source, tangrams)


def export_released(workspace: Workspace, directory: Path) -> ExportedRows:
    """Write the store's tables in the released schema. Raises as `released.export_released` does."""
    return export_released_from(workspace.open(), directory)


def _in_share(interaction_id: str, share: float) -> bool:
    return int(hashlib.sha256(interaction_id.encode()).hexdigest()[:8], 16) < share * 16**8


def _policy(workspace: Workspace, acted_by: str) -> PolicyIdentity:
    from tasks import registry  # MLflow takes seconds to import, and most imports do without

    version = registry.named(workspace, acted_by)
    return PolicyIdentity(name=version.name, version=str(version.version), adapter_hash=version.tags["adapter_hash"])
