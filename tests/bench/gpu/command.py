"""`python -m tests.bench gpu [--toy] [--out runs/bench] [--seconds 420]`: every phase, its records, and a table.

The records are written after each phase, so that a run that is stopped leaves what it measured. Each phase has its own
time; where that or the whole is short, a phase does less, or is left out, and the table says so.
"""

from __future__ import annotations

import argparse
import gc
import os
import shutil
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from respect_core.model.base import Base, default_device
from respect_core.model.vision import VisionFeatures
from respect_core.variants import Objective
from tests.bench.gpu import agreement, peers, phases, shape
from tests.bench.gpu.measure import Bench, OnDevice, Work
from tests.bench.record import commit, save

SECONDS = 420  # of 480: the rest is imports, and the step or pass in which the time ends


@dataclass(frozen=True)
class Phase:
    """A phase, and the seconds that it may take."""

    name: str
    seconds: float
    run: Callable[[float], Iterator[OnDevice]]


def main(arguments: list[str]) -> int:
    """Returns the exit status: 1 where a phase failed, 2 without a GPU."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench gpu", description=__doc__)
    parser.add_argument("--toy", action="store_true", help="a tiny shape, on a CPU too: does it run at all?")
    parser.add_argument("--out", type=Path, help="folder of gpu.json (runs/bench, or runs/bench-toy)")
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"for everything; {SECONDS} by default")
    given = parser.parse_args(arguments)
    device = default_device()
    if device.type != "cuda" and not given.toy:
        print("there is no CUDA device here; --toy runs a tiny shape on the CPU")
        return 2
    warnings.simplefilter("ignore")
    commit()  # as it is before anything runs
    bench = Bench(device, given.seconds)
    whole, scale = (shape.TOY, phases.TOY) if given.toy else (shape.Shape(), phases.Scale())
    out = given.out or Path("runs/bench-toy" if given.toy else "runs/bench")
    return bool(run(bench, whole, scale, out))


def run(bench: Bench, whole: shape.Shape, scale: phases.Scale, out: Path) -> list[str]:
    """Runs the phases, prints and saves the records; returns the names of those that failed."""
    records: list[OnDevice] = []
    said, failed = list[str](), list[str]()
    for phase in _phases(bench, whole, scale, said):
        if bench.left < phase.seconds / 4:
            said.append(f"{phase.name}: left out, for want of time ({bench.left:.0f} s of {bench.seconds:g})")
            continue
        before = bench.left
        try:
            for record in phase.run(min(phase.seconds, bench.left)):
                records.append(record)
                print(f"{_line(record)}  [{bench.seconds - bench.left:.0f} s]", flush=True)
        except Exception as error:
            traceback.print_exc()
            failed.append(phase.name)
            said.append(f"{phase.name}: failed after {before - bench.left:.0f} s ({type(error).__name__}: {error})")
        _save(records, out)
        gc.collect()
        torch.cuda.empty_cache()
    print(f"\n{table(records)}")
    print("\n".join(said or ["nothing was cut or left out"]))
    return failed


def _phases(bench: Bench, whole: shape.Shape, scale: phases.Scale, said: list[str]) -> Iterator[Phase]:
    """Yields the phases in order, those first that a shorter run must have; the model is made between two of them."""
    yield Phase("product", 10, lambda _: _product(bench, scale))
    yield Phase("agreement", 60, partial(agreement.agree, bench, whole, scale))
    base, features = shape.build(whole, bench.device)
    bench.wait()
    print(f"model made by second {bench.seconds - bench.left:.0f}", flush=True)

    def phase(name: str, seconds: float, run: phases.Phase) -> Phase:
        return Phase(name, seconds, lambda allowed: run(bench, base, features, scale, allowed))

    yield phase("vision", 15, phases.vision)
    yield phase("decode", 60, phases.decode)
    for objective in (Objective.FFT, Objective.RL, Objective.KTO):
        yield phase(str(objective), 40, partial(_train, objective))
    yield phase("validation", 25, phases.validate)
    yield phase("act", 50, phases.act)
    if missing := peers.lacking():
        said.append(f"TRL's trainers: skipped, not installed here: {', '.join(missing)}")
    else:
        yield phase("TRL", 80, peers.train)


def _train(
    objective: Objective,
    bench: Bench,
    base: Base,
    features: VisionFeatures,
    scale: phases.Scale,
    seconds: float,
) -> Iterator[OnDevice]:
    return phases.train(bench, base, features, scale, seconds, objective)


def _product(bench: Bench, scale: phases.Scale) -> Iterator[OnDevice]:
    """The peak that utilisation is a share of."""
    work = Work(turns=bench.product(scale.product) / 1e12, seconds=1.0)
    work.counts.flops = bench.peak
    yield bench.record("gpu-product", f"{scale.product} x {scale.product}", work, unit="TFLOP/s")


def _save(records: list[OnDevice], out: Path) -> None:
    """Writes gpu.json, and a copy where $OUT asks for what is to come back from another machine."""
    file = save(records, out, "gpu")
    if back := os.environ.get("OUT"):
        shutil.copy(file, Path(back) / file.name)


def table(records: list[OnDevice]) -> str:
    header = ("case", "speed", "tokens/s", "of the product", "of 989 TFLOP/s", "GiB", "against", "note")
    lines = [header, tuple("---" for _ in header), *map(_cells, records)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _line(record: OnDevice) -> str:
    return "  ".join(filter(None, _cells(record)))


def _cells(record: OnDevice) -> tuple[str, ...]:
    against = "" if record.ratio is None else f"{record.ratio:.2f}x {record.peer_name}"
    return (
        record.case,
        f"{record.ours:,.3g} {record.unit}",
        _figure(record.tokens_per_second, "{:,.0f}"),
        _figure(record.utilisation, "{:.0%}"),
        _figure(record.utilisation_nominal, "{:.0%}"),
        _figure(record.peak_gib, "{:.0f}"),
        against,
        "; ".join(each for each in (record.note, record.equality) if each and each != "none"),
    )


def _figure(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)
