"""Where a run's data lives: store, MLflow, scratch. Passed between tasks instead of the data itself."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from respect_core.store import Store, open_store


class Workspace(BaseModel):
    """One folder by default; RESPECT_STORE and MLFLOW_TRACKING_URI move the store and MLflow elsewhere."""

    model_config = ConfigDict(frozen=True)

    root: Path
    store_uri: str
    tracking_uri: str
    experiment: str = "respect"

    @property
    def scratch(self) -> Path:
        """Checkpoints and files of running work; safe to delete between rounds."""
        return self.root / "work"

    def open(self) -> Store:
        return open_store(self.store_uri)


def workspace(root: Path, experiment: str = "respect") -> Workspace:
    """The workspace rooted at `root`, made if absent."""
    root = root.resolve()
    root.mkdir(parents=True, exist_ok=True)
    return Workspace(
        root=root,
        store_uri=os.environ.get("RESPECT_STORE", str(root / "store")),
        tracking_uri=os.environ.get("MLFLOW_TRACKING_URI", f"sqlite:///{root / 'mlflow.db'}"),
        experiment=experiment,
    )
