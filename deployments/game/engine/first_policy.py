"""Provide a first policy on a clean clone.

The base model, with an adapter that changes nothing, acts at once; the seed policy (appendix B.2) is trained during the
game and gets the games that begin once it is registered.

`python -m deployments.game.engine.first_policy RUN` trains it until its standard input closes. What is being trained
when the game ends is resumed at the next start, or in the next round.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading

from flows.support.terminal import run_workspace
from respect_core.profiles import tiny
from respect_core.scenario import scenario
from respect_core.variants import SEED
from tasks.registry import deployed, registry
from tasks.support.workspace import Workspace

log = logging.getLogger(__name__)


def provide(workspace: Workspace, run: str) -> None:
    """Make sure that some policy can act. A training that this starts ends with this process at the latest."""
    seed = registry.latest(workspace, SEED)
    if seed is None:
        register_base(workspace)
    elif "untrained" not in seed.tags:
        return
    log.info("the base model acts, while the seed policy is trained beside the game")
    command = ["nice", "-n", "19", sys.executable, "-m", "deployments.game.engine.first_policy", run]
    ours, _ = os.pipe()  # never written to: the other end closes when this process ends, even if it is killed
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.Popen(command, stdin=ours, env=environment, start_new_session=True)
    os.close(ours)


def register_base(workspace: Workspace) -> None:
    """Register the embedded model, untrained, as the first version of the seed policy."""
    from pydantic import TypeAdapter

    from respect_core.model.base import adapter_hash, attach_lora, load_base, save_adapter
    from respect_core.profiles import Profile

    profile = tiny()
    files = workspace.scratch / "untrained"
    save_adapter(attach_lora(load_base(profile.base, scenario(profile.scenario)), profile.lora, seed=0), files)
    (files / "profile.json").write_bytes(TypeAdapter(Profile).dump_json(profile))
    tags = {"round": 0, "adapter_hash": adapter_hash(files), "profile": profile.name, "untrained": True}
    run_id = registry.start_run(workspace, "base model, untrained")
    with registry.ended(workspace, run_id):
        version = registry.register_adapter(workspace, run_id, SEED, files, tags=tags, metrics={}, step=0)
        deployed.pin_seed(workspace, version, "the base model, until the seed policy is trained")


def train(run: str) -> None:
    """Train the seed policy of profile tiny, on simulated games between people."""
    workspace = run_workspace(run)
    from flows.seed import seed_policy

    seed_policy(workspace, tiny(), "validation")


def _end_with_the_game() -> None:
    """End this training with the game, and its worker and Prefect server, which are in its process group."""
    os.read(0, 1)  # blocks until the game's end of the pipe closes
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    threading.Thread(target=_end_with_the_game, daemon=True).start()
    train(sys.argv[1])
