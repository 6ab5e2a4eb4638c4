"""A clean clone has no policy yet: the base model, with an adapter that changes nothing, acts at once, and the seed
policy (appendix B.2) is trained beside the game and takes the games that begin once it is registered.

`python -m deployments.game.first_policy RUN` trains it.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys

from flows.terminal import run_workspace
from respect_core.variants import SEED, tiny
from tasks import registry
from tasks.workspace import Workspace

log = logging.getLogger(__name__)


def provide(workspace: Workspace, run: str) -> subprocess.Popen[bytes] | None:
    """See to it that something can act; returns the training, where one was begun."""
    seed = registry.latest(workspace, SEED)
    if seed is None:
        register_base(workspace)
    elif "untrained" not in seed.tags:
        return None
    log.info("the base model acts, while the seed policy is trained beside the game")
    command = [sys.executable, "-m", "deployments.game.first_policy", run]
    return subprocess.Popen(["nice", "-n", "19", *command], env=os.environ | {"OMP_NUM_THREADS": "1"})


def register_base(workspace: Workspace) -> None:
    """The embedded model as it is, as the first version of the seed policy."""
    from pydantic import TypeAdapter

    from respect_core.base import adapter_hash, attach_lora, load_base, save_adapter
    from respect_core.variants import Profile

    profile = tiny()
    files = workspace.scratch / "untrained"
    save_adapter(attach_lora(load_base(profile.base), profile.lora, seed=0), files)
    (files / "profile.json").write_bytes(TypeAdapter(Profile).dump_json(profile))
    tags = {"round": 0, "adapter_hash": adapter_hash(files), "profile": profile.name, "untrained": True}
    run_id = registry.start_run(workspace, "base model, untrained")
    registry.register_adapter(workspace, run_id, SEED, files, tags=tags, metrics={}, step=0)
    registry.end_run(workspace, run_id)


def train(run: str) -> None:
    """The seed policy of profile tiny, on simulated games between people."""
    workspace = run_workspace(run)
    from flows.seed import seed_policy

    seed_policy(workspace, tiny(), "validation")


if __name__ == "__main__":
    train(sys.argv[1])
