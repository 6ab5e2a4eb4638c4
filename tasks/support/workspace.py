"""Where a run's data is: store, MLflow, scratch. Passed between tasks instead of the data itself."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict

from respect_core.settings import settings
from respect_core.store.base import Store
from respect_core.store.open import open_store


def without_password(uri: str) -> str:
    """Return the URI of a database or server without its password, safe to show and store."""
    return re.sub(r"([?&]\w*passw\w*=)[^&]*", r"\1", re.sub(r"^(\w[\w+.-]*://[^:@/]*):.*@", r"\1@", uri))


class Workspace(BaseModel):
    """One folder by default; RESPECT_STORE and MLFLOW_TRACKING_URI move the store and MLflow elsewhere.

    It is part of flow parameters, specifications and messages, so it never contains a password: that stays in the
    environment.
    """

    model_config = ConfigDict(frozen=True)

    root: Path
    store_uri: str
    tracking_uri: Annotated[str, AfterValidator(without_password)]
    experiment: str = "respect"

    @property
    def scratch(self) -> Path:
        """Checkpoints and files of running work; safe to delete between rounds."""
        return self.root / "work"

    @property
    def tracking(self) -> str:
        """The `tracking_uri` for MLflow's clients and server, with the password if MLFLOW_TRACKING_URI has one."""
        named = settings().tracking_uri
        return named if named and without_password(named) == self.tracking_uri else self.tracking_uri

    def open(self) -> Store:
        return open_store(self.store_uri)


_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def checked_name(name: str) -> str:
    """Check the name of a run or study, which becomes a folder's name and part of keys; return it.

    Raises:
        ValueError: as a path, it could lead elsewhere, or be mistaken for something else.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"{name[:80]!r} cannot name a run: use letters, digits, dots, dashes and underscores, 64 at most, the "
            "first a letter or digit, such as 'study-2'"
        )
    return name


def workspace(root: Path, experiment: str = "respect") -> Workspace:
    """Return the workspace rooted at `root`, made if absent."""
    root = root.resolve()
    root.mkdir(parents=True, exist_ok=True)
    return Workspace(
        root=root,
        store_uri=settings().store or str(root / "store"),
        tracking_uri=settings().tracking_uri or f"sqlite:///{root / 'mlflow.db'}",
        experiment=experiment,
    )


def from_environment(part: str | None = None) -> Workspace:
    """Return the workspace of a run on a work pool, whose inputs and results are where other machines can see them.

    RESPECT_STORE and MLFLOW_TRACKING_URI name the shared places, RESPECT_ROOT a folder of this machine for scratch.

    Args:
        part: name of a separate workspace inside, with its own folder, part of the store, and experiment.

    Raises:
        ValueError: one of the variables is not set.
    """
    store, tracking, root = settings().store, settings().tracking_uri, settings().root
    if store is None or tracking is None or root is None:
        places = {"RESPECT_STORE": store, "MLFLOW_TRACKING_URI": tracking, "RESPECT_ROOT": root}
        lacking = ", ".join(name for name, place in places.items() if place is None)
        raise ValueError(
            f"{lacking} not set on this worker: set them in its environment, or in the work pool's job "
            "template; docs/operations.md says to what"
        )
    shared = Workspace(root=root.resolve(), store_uri=store, tracking_uri=tracking)
    if part is not None:
        shared = shared.model_copy(
            update={"root": shared.root / part, "store_uri": f"{store}/{part}", "experiment": f"respect/{part}"}
        )
    shared.root.mkdir(parents=True, exist_ok=True)
    return shared
