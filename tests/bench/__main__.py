"""`python -m tests.bench [CASES...] [--quick] [--out runs/bench]`: measure, write the records and the table."""

from __future__ import annotations

import argparse
import importlib
import os
import pkgutil
import sys
import time
import warnings
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import tests.bench
from tests.bench import table
from tests.bench.record import CASES, Record, load, save

DOCUMENT = Path("docs/performance.md")


def main() -> int:
    """Returns the exit status: 1 where a quick ratio is below its floor."""
    for module in pkgutil.iter_modules(tests.bench.__path__):
        if module.name != "__main__":
            importlib.import_module(f"tests.bench.{module.name}")
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="CASES", help=f"all by default: {', '.join(sorted(CASES))}")
    parser.add_argument("--quick", action="store_true", help="small settings, held against floors.json; no table")
    parser.add_argument("--out", type=Path, help="folder of the records (runs/bench, or runs/bench-quick)")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.cases) - set(CASES))
    if unknown:
        parser.error(f"no case {', '.join(unknown)}; there are: {', '.join(sorted(CASES))}")
    out: Path = arguments.out or Path("runs/bench-quick" if arguments.quick else "runs/bench")
    warnings.simplefilter("ignore")
    measured: list[Record] = []
    for name in arguments.cases or sorted(CASES):
        started = time.monotonic()
        records = list(CASES[name](arguments.quick))
        if records:
            save(records, out, name)
            print(f"{name}: {time.monotonic() - started:.0f} s", flush=True)
            print(table.table(records), flush=True)
        measured += records
    if not arguments.quick:
        table.write(load(out), DOCUMENT)
        return 0
    wrong = table.below_floor(measured)
    print("\n".join(wrong) if wrong else "every ratio is above its floor", file=sys.stderr if wrong else sys.stdout)
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
