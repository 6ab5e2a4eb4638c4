"""`python -m tests.bench [CASES...] [--quick] [--out runs/bench]`: measure and write the records.

The table in docs/performance.md is written once there are records of every case, all of the same commit. `--table`
writes it from those that there are; rows of the other cases stay, and it names the commit of each case.

`python -m tests.bench gpu` measures a model of IDEFICS2-8B's shape on a GPU (tests/bench/gpu), and is in no table.
"""

from __future__ import annotations

import argparse
import importlib
import os
import pkgutil
import sys
import time
import traceback
import warnings
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import tests.bench
from tests.bench import table
from tests.bench.record import CASES, Record, commit, load, save

DOCUMENT = Path("docs/performance.md")


def main() -> int:
    """Returns the exit status: 1 where a case failed or a quick ratio is below its floor, measured twice."""
    if sys.argv[1:2] == ["gpu"]:  # before the others are imported: their peers are not on every machine
        return importlib.import_module("tests.bench.gpu.command").main(sys.argv[2:])
    for module in pkgutil.iter_modules(tests.bench.__path__):
        if module.name != "__main__":
            importlib.import_module(f"tests.bench.{module.name}")
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="CASES", help=f"all by default: {', '.join(sorted(CASES))}")
    parser.add_argument("--quick", action="store_true", help="small settings, held against floors.json; no table")
    parser.add_argument("--out", type=Path, help="folder of the records (runs/bench, or runs/bench-quick)")
    parser.add_argument(
        "--table",
        action="store_true",
        help="measure nothing; write the table from what there is, rows of other cases as they stand",
    )
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.cases) - set(CASES))
    if unknown:
        parser.error(f"no case {', '.join(unknown)}; there are: {', '.join(sorted(CASES))}")
    out: Path = arguments.out or Path("runs/bench-quick" if arguments.quick else "runs/bench")
    if arguments.table:
        print(_write_table(out, whole=False))
        return 0
    warnings.simplefilter("ignore")
    commit()  # as it is before anything runs
    wrong: list[str] = []
    for name in arguments.cases or sorted(CASES):
        try:
            records = _run(name, arguments.quick, out)
            if arguments.quick and table.below_floor(records):
                print(f"{name} is below its floor; once more, in case something else was running", flush=True)
                records = _run(name, arguments.quick, out)
        except Exception:
            traceback.print_exc()
            wrong.append(f"{name} failed")
        else:
            wrong += table.below_floor(records) if arguments.quick else []
    if arguments.quick and not wrong:
        print("every ratio is above its floor")
    elif not arguments.quick and not wrong:
        print(_write_table(out))
    print("\n".join(wrong), end="\n" if wrong else "", file=sys.stderr)
    return bool(wrong)


def _run(name: str, quick: bool, out: Path) -> list[Record]:
    """Measure a case, print and save what came out."""
    started = time.monotonic()
    records = list(CASES[name](quick))
    if records:
        save(records, out, name)
        print(f"{name}: {time.monotonic() - started:.0f} s", flush=True)
        print(table.table(records), flush=True)
    return records


def _write_table(out: Path, *, whole: bool = True) -> str:
    """Write the table if the records are of one commit, and of every case if `whole`; what was done, or why not."""
    missing = sorted(name for name in CASES if not (out / f"{name}.json").is_file())
    if missing and whole:
        return f"no table: {', '.join(missing)} not measured yet (--table writes it without them)"
    records = load(out)
    commits = sorted({record.versions.get("commit", "unknown") for record in records})
    if len(commits) > 1 and whole:
        return f"no table: records of several commits, {', '.join(commits)}; measure again, or name them by --table"
    table.write(records, missing, DOCUMENT)
    return f"table written to {DOCUMENT}; not measured yet: {', '.join(missing) or 'none'}"


if __name__ == "__main__":
    sys.exit(main())
