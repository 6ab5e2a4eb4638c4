"""Tell which versions learned from what is forgotten: they are not promoted, and nothing continues from them."""

from __future__ import annotations

from respect_core.release import lineage
from tasks.support.workspace import Workspace


def tainted(workspace: Workspace) -> dict[str, str]:
    """Return those versions, each with the reason."""
    return {
        each.version: f"it continues the weights of {each.through}, which learned from what users had forgotten"
        if each.through
        else f"it learned from {len(each.turns)} turns that users had forgotten (`respect forget`)"
        for each in lineage.tainted(workspace.open())
    }
