"""Make the tiny model, stage by stage: `python -m respect_core.tiny.build [stage]`.

Stages: see (vision and words), then others that read its checkpoint. Checkpoints lie under runs/tiny-build/.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from transformers import Idefics2ForConditionalGeneration

from respect_core.tiny import lessons, path, pictures, read, see, skeleton

RUNS = Path("runs/tiny-build")
LATENTS_OF = 12_000  # pictures that the text model is trained on


def _log(line: str) -> None:
    print(line, flush=True)
    RUNS.mkdir(parents=True, exist_ok=True)
    with (RUNS / "build.log").open("a") as file:
        file.write(line + "\n")


PHASES = {
    # name: (checkpoint it starts from, phase)
    "match": ("see", read.Phase("match", 250, 24, (3, 4, 5), 6, 0.0, 1.5e-3, (1.0, 1.0), final_rate=1.0)),
    "many": ("match", read.Phase("many", 300, 12, (6, 8, 10, 10), 8, 0.2, 1.5e-3, (1.0, 0.5), final_rate=0.6)),
    "games": ("many", read.Phase("games", 900, 16, (10,), 10, 0.75, 1e-3, (0.5, 0.1), final_rate=0.03)),
}


def stage_see(steps: int) -> None:
    """From random weights to RUNS/see."""
    processor = skeleton.processor()
    model = skeleton.untrained(processor.tokenizer)
    data, test = pictures.cached(5000, "train", RUNS), pictures.cached(250, "test", RUNS)
    see.train(model, processor.tokenizer, data, test, steps=steps, log=_log)
    model.save_pretrained(RUNS / "see")


def stage_read(name: str, steps: int | None) -> None:
    """One phase of the text model, from the checkpoint of the stage before it to RUNS/<name>."""
    source, phase = PHASES[name]
    if steps:
        phase = replace(phase, steps=steps)
    tokenizer = skeleton.processor().tokenizer
    model = Idefics2ForConditionalGeneration.from_pretrained(RUNS / source)
    data, test = pictures.cached(5000, "train", RUNS), pictures.cached(250, "test", RUNS)
    data = pictures.Pictures(data.pixels[:LATENTS_OF], data.labels[:LATENTS_OF])
    latents, held_out = read.latents_of(model, data.pixels), read.latents_of(model, test.pixels)
    seeds = {"match": 1, "many": 2, "games": 3}
    examiner = lessons.Teacher(test, tokenizer, 99)
    exams = {
        "ask": (examiner, held_out, [examiner.questions(10, 8) for _ in range(20)]),
        "play": (examiner, held_out, [examiner.game(10, 10) for _ in range(20)]),
    }
    teacher = lessons.Teacher(data, tokenizer, seeds[name])
    read.train(model, teacher, latents, phase, exams, save=RUNS / name, log=_log)
    model.save_pretrained(RUNS / name)


def stage_save(source: str) -> None:
    """A checkpoint with its processor as the model of the package."""
    model = Idefics2ForConditionalGeneration.from_pretrained(RUNS / source)
    model.save_pretrained(path())
    skeleton.processor().save_pretrained(path())


def main() -> None:
    """Run one stage, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stage", choices=["see", *PHASES, "save", "all"])
    parser.add_argument("--steps", type=int)
    parser.add_argument("--source", default="games", help="checkpoint to save")
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
