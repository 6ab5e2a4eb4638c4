"""Print what a process was given when it started: `python -m tests.inherited`, for tests of forked processes."""

from __future__ import annotations

import gc
import json
import locale
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any


def inherited() -> dict[str, Any]:
    """Return what a new interpreter and a forked process have in common."""
    import numpy as np
    import torch

    status = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {
        "arguments": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "command": Path("/proc/self/cmdline").read_text().rstrip("\0"),
        "modules": [sys.modules["__main__"].__spec__ is not None, __name__],
        "path": sys.path,
        "flags": list(sys.flags),
        "environment": dict(os.environ),
        "folder": os.getcwd(),  # noqa: PTH109  # as JSON
        "group": os.getpgid(0) == os.getpid(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.is_initialized(),
        "collects": [gc.isenabled(), gc.get_threshold()],
        "signals": [str(signal.getsignal(number)) for number in sorted(signal.valid_signals())],
        "locale": locale.setlocale(locale.LC_ALL),
        "zone": time.tzname,
        "masks": [status[name] for name in ("SigBlk", "SigIgn", "SigCgt", "Umask", "Cpus_allowed")],
        "open": sorted(os.listdir("/proc/self/fd")),  # noqa: PTH208  # names
        "drawn": [random.random(), float(np.random.random()), float(torch.rand(1))],  # what nobody seeded
    }


if __name__ == "__main__":
    print(json.dumps(inherited()), flush=True)
    if "wait" in sys.argv:
        sys.stdin.read()
    sys.exit(7)
