"""Look at the canaries in force, as a Prefect flow: a schedule starts it, or `respect canary`."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.states import Completed

from respect_core.release.canary_looks import CanaryLook
from tasks.release.canary import in_force, look_at_canary
from tasks.round.collect import collect_chats
from tasks.support.workspace import Workspace


@flow(name="canary", flow_run_name="look at canaries")
def look_at_canaries(workspace: Workspace) -> list[CanaryLook]:
    """Look once at every canary in force, and promote its candidate or end it if that is decided.

    Returns:
        The looks; none where nothing is new.
    """
    found = in_force(workspace)
    if any(begun.canary is not None and begun.canary.criterion == "follow-ups" for begun in found.values()):
        collect_chats(workspace)
    looks = [look_at_canary(workspace, variant, begun) for variant, begun in found.items()]
    made = [each for each in looks if each is not None]
    said = "; ".join(map(str, made)) or f"{len(found)} in force, nothing new"
    result: Any = Completed(message=said, data=made)  # Prefect gives callers the data
    return result
