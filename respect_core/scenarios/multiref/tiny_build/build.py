"""Build the tiny model, stage by stage: `python -m respect_core.scenarios.multiref.tiny_build.build [stage]`.

The first stage is `see` (vision and words); each other one reads a checkpoint. Checkpoints are in runs/tiny-build/.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from transformers import Idefics2ForConditionalGeneration

from respect_core.scenarios.multiref.tiny_build import lessons, pictures, read, see, skeleton
from respect_core.tiny import path

RUNS = Path("runs/tiny-build")
LATENTS_OF = 12_000  # pictures to train the text model on


def _log(line: str) -> None:
    print(line, flush=True)
    RUNS.mkdir(parents=True, exist_ok=True)
    with (RUNS / "build.log").open("a") as file:
        file.write(line + "\n")


PHASES = {
    # name: (checkpoint it starts from, phase)
    "match": ("see", read.Phase("match", 300, 12, (6, 10), 16, 0.0, 3e-3, (1.0, 1.0), final_rate=0.2, layers=3)),
    "many": ("match", read.Phase("many", 200, 12, (6, 10), 8, 0.4, 1.5e-3, (1.0, 0.7), final_rate=0.7)),
    "mix": ("many", read.Phase("mix", 100, 14, (10,), 10, 0.8, 1e-3, (0.5, 0.5), final_rate=1.0)),
    "sharpen": ("mix", read.Phase("sharpen", 500, 12, (10,), 16, 0.0, 1.5e-3, (1.0, 1.0), final_rate=0.1, layers=3)),
    "games": ("sharpen", read.Phase("games", 600, 14, (10,), 10, 0.8, 1e-3, (0.5, 0.1), final_rate=0.03)),
    "polish": ("games", read.Phase("polish", 1500, 14, (10,), 10, 0.9, 8e-4, (0.1, 0.05), final_rate=0.01)),
}


def stage_see(steps: int) -> None:
    """Train from random weights, and save to RUNS/see."""
    processor = skeleton.processor()
    model = skeleton.untrained(processor.tokenizer)
    data, test = pictures.cached(5000, "train", RUNS), pictures.cached(250, "test", RUNS)
    see.train(model, processor.tokenizer, data, test, steps=steps, log=_log)
    model.save_pretrained(RUNS / "see")
    (RUNS / "latents.pt").unlink(missing_ok=True)


def _latents(
    model: Idefics2ForConditionalGeneration, data: pictures.Pictures, test: pictures.Pictures
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the connector's latents of the pictures, which do not change after the stage `see`."""
    file = RUNS / "latents.pt"
    if not file.exists():
        torch.save((read.latents_of(model, data.pixels), read.latents_of(model, test.pixels)), file)
    both: tuple[torch.Tensor, torch.Tensor] = torch.load(file)
    return both


def stage_read(name: str, steps: int | None) -> None:
    """Train one phase of the text model, from the previous stage's checkpoint to RUNS/<name>."""
    source, phase = PHASES[name]
    if steps:
        phase = replace(phase, steps=steps)
    tokenizer = skeleton.processor().tokenizer
    model = Idefics2ForConditionalGeneration.from_pretrained(RUNS / source)
    if name == "match":
        read.prepare(model)
    data, test = pictures.cached(5000, "train", RUNS), pictures.cached(250, "test", RUNS)
    data = pictures.Pictures(data.pixels[:LATENTS_OF], data.labels[:LATENTS_OF])
    latents, held_out = _latents(model, data, test)
    seeds = {name: number for number, name in enumerate(PHASES)}
    examiner = lessons.Teacher(test, tokenizer, 99)
    exams = {
        "ask": (examiner, held_out, [examiner.questions(10, 8) for _ in range(20)]),
        "play": (examiner, held_out, [examiner.game(10, 10) for _ in range(20)]),
    }
    teacher = lessons.Teacher(data, tokenizer, seeds[name])
    read.train(model, teacher, latents, phase, exams, save=RUNS / name, log=_log)
    model.save_pretrained(RUNS / name)


def stage_save(source: str) -> None:
    """Save a checkpoint and its processor as the package's model."""
    model = Idefics2ForConditionalGeneration.from_pretrained(RUNS / source)
    model.save_pretrained(path())
    skeleton.processor().save_pretrained(path())


def main() -> None:
    """Run one stage, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stage", choices=["see", *PHASES, "save", "all"])
    parser.add_argument("--steps", type=int)
    parser.add_argument("--source", default="polish", help="checkpoint to save")
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    if arguments.stage in ("see", "all"):
        stage_see(arguments.steps or 1000)
    for name in PHASES:
        if arguments.stage in (name, "all"):
            stage_read(name, arguments.steps)
    if arguments.stage in ("save", "all"):
        stage_save(arguments.source)


if __name__ == "__main__":
    main()
