"""Learn again without what is forgotten: the newest rounds of the versions that learned from it."""

from __future__ import annotations

from typing import Any

from flows.parameters import RoundParameters
from flows.round import round
from tasks.release.forget import retrainings
from tasks.support.workspace import Workspace


def retrain(workspace: Workspace) -> list[dict[str, Any]]:
    """Run these rounds again; return their summaries. Their versions become candidates; nothing is deployed."""
    return [
        round(
            workspace,
            RoundParameters(
                round=each.round,
                profile=each.profile,
                variants=each.variants,
                validation=each.validation,
                feedback=each.feedback,
            ),
        )
        for each in retrainings(workspace)
    ]
