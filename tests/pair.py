"""What two processes that train together do for test_distributed.py: `python -m tests.pair FOLDER SPEC SPEC`.

They agree on what processes exchange, and then do the work of both specifications.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from unittest.mock import patch

import torch

from respect_core.learning import distributed
from tasks.compute import worker


def agree(folder: Path) -> None:
    """Leave in the folder what this process told and learned."""
    processes = distributed.launched()
    first, second = torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(3))
    if processes.rank == 1:
        first.grad = torch.ones(2)

    def work() -> None:
        if processes.rank == 1:
            raise torch.OutOfMemoryError("no room")

    said = ""
    try:
        processes.raise_oom_together(work)
    except torch.OutOfMemoryError as error:
        said = str(error)
    told = {
        "shard": list(processes.shard(range(5))),
        "sums": processes.all_reduce_sum([first, second], [1.0, processes.rank]),
        "first": first.grad.tolist() if first.grad is not None else None,
        "second": second.grad,
        "minimum": processes.all_reduce_min(8 >> processes.rank),
        "memory": said,
    }
    (folder / f"{processes.rank}.json").write_text(json.dumps(told))


def main(folder: str, first: str, second: str) -> int:
    """Return the exit code of the work."""
    agree(Path(folder))
    with patch.object(distributed, "leave"):  # there is more to do together
        code = worker.run(Path(first))
    return code or worker.run(Path(second))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
