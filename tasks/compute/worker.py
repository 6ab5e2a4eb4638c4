"""Do one piece of work as a process: `python -m tasks.compute.worker SPEC.json` (started by `tasks.compute.process`).

Each kind of work (tasks/compute/specs.py) has a function here that returns its result.
Progress goes to standard output as JSON lines; the result goes to result.json next to the specification, written whole.
A worker whose standard input is a pipe ends when the pipe closes, so it does not outlive the process that started it.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import stat
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from respect_core.log.records import InteractionLog
from respect_core.measuring.labels import right_turns
from respect_core.model.memory import no_room_on_cpu
from respect_core.store.base import Store, StoreError
from respect_core.store.manifests import Partition
from respect_core.training_data import curated
from tasks.compute.loading import features_of, images_of, load_base_of
from tasks.compute.process import CULPRIT, CUT_OFF, EXIT_CODE, NO_ROOM, REFUSED
from tasks.compute.specs import (
    ABOUT,
    RESUME,
    CompareSpec,
    DecodeSpec,
    EvaluateSpec,
    GuardSpec,
    PlayResult,
    PlaySpec,
    PropensitySpec,
    Spec,
    TrainSpec,
    TriggerSpec,
)
from tasks.support.files import write_whole
from tasks.support.retries import is_transient

if TYPE_CHECKING:  # each kind of work imports what it needs: games are counted without torch
    from respect_core.learning.trainer import TrainingResult
    from respect_core.model.base import Base
    from respect_core.training_data.sampling import Example
    from respect_core.variants import Engine


def report(done: int, total: int, note: str = "") -> None:
    """Print one line of progress for the parent process."""
    print(json.dumps({"done": done, "total": total, "note": note}), flush=True)


def train(spec: TrainSpec) -> dict[str, Any]:
    """Train and validate; return checkpoints with their figures. The processor is saved next to them."""
    from respect_core.acting.policy import Policy
    from respect_core.learning.checkpoints import ResumeFile, StepRecord
    from respect_core.learning.distributed import launched
    from respect_core.learning.validation import exact_match
    from respect_core.log.records import from_log
    from respect_core.store import tables
    from respect_core.training_data import sampling

    store, processes = spec.workspace.open(), launched()
    base = load_base_of(spec)
    chosen = spec.chosen()
    table = tables.read_table(store, "training_sets", [spec.round], [spec.variant])
    examples = [each for each in sampling.examples(table) if chosen(each.interaction.interaction_id)]
    if spec.only is not None:
        return _tried(spec, base, examples)
    logs = curated.read(store, spec.validation)
    held_out, right = [from_log(log) for log in logs], right_turns(logs)
    features = features_of(spec, base, [*images_of(example.interaction for example in examples), *images_of(held_out)])

    def validate(model: Any) -> dict[str, Any]:
        result = exact_match(Policy(base, model, features), held_out, right)
        return {
            "exact_match": result.exact_match,
            "sampled_match": result.sampled_match,
            "n_turns": result.n_turns,
            "illegal_actions": result.illegal_actions or 0,
            "right": [(name, turn, score) for (name, turn), score in sorted(result.scores.items())],
        }

    def progress(step: StepRecord, total: int) -> None:
        smaller = step.micro_batch < spec.training.micro_batch_interactions
        note = f", {step.micro_batch} games at once: the device ran out of memory" if smaller else ""
        report(step.step, total, f"loss {step.loss:.3f}{note}")

    result = _engine(spec.training.engine)(
        base,
        examples,
        validate,
        spec.training,
        spec.profile.placement(spec.variant),
        spec.seed,
        spec.directory,
        features=features,
        processes=processes,
        init_adapter=spec.adapter,
        resume=ResumeFile(spec.directory / RESUME, spec.key()),
        progress=progress,
    )
    if processes.first:
        base.processor.save_pretrained(spec.directory / "processor")
    return {
        "checkpoints": [
            {"step": each.step, "adapter": each.adapter.name, **each.validation} for each in result.checkpoints
        ],
        "turns_per_second": result.turns_per_second,
        "tokens": result.tokens,
        "padding": result.padding,
        "device": base.device.type,
        "precision": base.precision,
    }


def _engine(name: Engine) -> Callable[..., TrainingResult]:
    """Return the function that trains."""
    from respect_core.learning import trainer, trl_engine

    return {"packed": trainer.train, "trl": trl_engine.train}[name]


def _tried(spec: TrainSpec, base: Base, examples: Sequence[Example]) -> dict[str, Any]:
    """Train one step on these games, keeping nothing, to see whether training survives them."""
    positive = [replace(each, labels=tuple(label and 1 for label in each.labels)) for each in examples]
    one = replace(spec.training, epochs=1, max_steps=1, batch_turns=sys.maxsize, checkpoint_every=None)
    features = features_of(spec, base, images_of(example.interaction for example in examples))
    with TemporaryDirectory() as folder:
        options: dict[str, Any] = {"features": features, "init_adapter": spec.adapter}
        _engine(one.engine)(base, positive, None, one, spec.profile.lora, spec.seed, Path(folder), **options)
    return {}


def decode(spec: DecodeSpec) -> dict[str, Any]:
    """Decode the partitions that are not decoded yet; return turns per second, not counting loading the model."""
    from respect_core.feedback import decoder as feedback
    from respect_core.feedback import shards
    from respect_core.model.local import load_tokenizer
    from respect_core.utterances import Vocabulary

    store, decoder = spec.workspace.open(), feedback.FeedbackDecoder(feedback.named(spec.profile.feedback_decoder))
    vocabulary = Vocabulary(load_tokenizer(spec.profile.base))
    total, chosen = shards.Decoded(), spec.chosen()
    for partition in spec.partitions:
        if spec.only is not None:
            shards.try_games(store, partition, decoder, chosen)
            continue
        progress = partial(report, note=f"round {partition.round}, {partition.variant}")
        if spec.shards is None:
            total += shards.decode_partition(
                store,
                partition,
                decoder,
                spec.identity,
                spec.turns_per_shard,
                progress,
                vocabulary=vocabulary,
                chosen=chosen,
                begin=partial(_about, spec),
            )
        else:
            total += shards.decode_shards(
                store, partition, decoder, spec.shards, spec.turns_per_shard, progress, chosen
            )
    scored = total.turns - total.found
    return {"turns": total.turns, "found": total.found, "turns_per_second": scored / total.seconds if scored else None}


def _about(spec: DecodeSpec, games: list[str]) -> None:
    """Record which games come next, in case this process does not survive them."""
    if spec.directory is not None:
        write_whole(spec.directory / ABOUT, json.dumps(games))


def play(spec: PlaySpec) -> dict[str, Any]:
    """Play games with simulated speakers, logging them if asked to; games in the log are not played again."""
    from respect_core.log.log import append_logs, find_logs, read_logs
    from respect_core.measuring.metrics import counts_of_logs

    store, partition = spec.workspace.open(), Partition(spec.round, spec.variant)
    logged = find_logs(store, partition, spec.batch) if spec.log else None
    logs = list(read_logs(store, logged)) if logged else _played(spec, store)
    if spec.log:
        append_logs(store, logs, spec.batch)
    return PlayResult(
        counts={name.split(f"-s{spec.seed}-", 1)[1]: columns for name, columns in counts_of_logs(logs).items()}
    ).model_dump()


def _played(spec: PlaySpec, store: Store) -> list[InteractionLog]:
    from respect_core.acting.policy import Policy
    from respect_core.measuring.world import Deployment, world
    from respect_core.measuring.world import play as play_with

    people = world(spec.profile.scenario)
    deployment = Deployment(spec.round, spec.variant, spec.policy, spec.seed)
    interactions = list(people.interactions(spec.games, spec.contexts_seed, deployment, skip=spec.skip))
    random.Random(f"order-{spec.seed}").shuffle(interactions)
    images = set(images_of(interaction.seen() for interaction in interactions))
    people.ensure_images(store, images)
    base = load_base_of(spec)
    policy = Policy(base, spec.adapter, features_of(spec, base, images), seed=_number(spec.seed))
    return play_with(
        policy, interactions, batch=spec.profile.play_batch, progress=lambda done, total: report(done, total)
    )


def _number(seed: int | str) -> int:
    """Return the number for a seed, which may be a name."""
    return seed if isinstance(seed, int) else int(hashlib.sha256(seed.encode()).hexdigest()[:12], 16)


def propensity(spec: PropensitySpec) -> dict[str, Any]:
    """Compute the probability of every logged action, by interaction; of free text, its logarithm.

    None if constrained decoding cannot write the action.
    """
    from respect_core.acting.policy import Policy
    from respect_core.interaction import interactions
    from respect_core.store import tables

    rows = tables.read_table(spec.workspace.open(), "turns", [spec.round], [spec.variant]).to_pylist()
    chosen = spec.chosen()
    games = [game for game in interactions(rows) if chosen(game.interaction_id)]
    base = load_base_of(spec)
    policy = Policy(base, spec.adapter, features_of(spec, base, images_of(games)))
    result: dict[str, Sequence[float | None]] = {}
    for start in range(0, len(games), spec.profile.play_batch):
        some = games[start : start + spec.profile.play_batch]
        values: Sequence[Sequence[float | None]]
        values = policy.log_probabilities(some) if base.scenario.free_text else policy.probabilities(some)
        result.update(zip((game.interaction_id for game in some), values, strict=True))
        report(len(result), len(games))
    return result


def evaluate(spec: EvaluateSpec) -> dict[str, Any]:
    """Compare the policy's greedy action with the logged one on every correct turn; check that it computes numbers."""
    import math

    from respect_core.acting.policy import Policy
    from respect_core.learning.validation import exact_match
    from respect_core.log.records import from_log

    logs = curated.read(spec.workspace.open(), spec.game_set)
    games, right = [from_log(log) for log in logs], right_turns(logs)
    base = load_base_of(spec)
    policy = Policy(base, spec.adapter, features_of(spec, base, images_of(games)))
    result = exact_match(policy, games, right)
    turns = [(name, turn, score) for (name, turn), score in sorted(result.scores.items())]
    logp = policy.log_probabilities([game for game in games if game.interaction_id in {name for name, _ in right}])
    finite = all(math.isfinite(each) for game in logp for each in game)
    return {"turns": turns, "illegal_actions": result.illegal_actions or 0, "finite": finite}


def triggers(spec: TriggerSpec) -> dict[str, Any]:
    """Return what each suspect word costs the policy on every correct turn, by its hash, and what made-up ones cost."""
    from respect_core.acting.policy import Policy
    from respect_core.learning.triggers import costs
    from respect_core.log.records import from_log

    # Hashes name the words: how they are found changes no result, and so must not count in workers' versions.
    suspects = import_module("respect_core.release.triggers").suspects
    store = spec.workspace.open()
    logs = curated.read(store, spec.game_set)
    words = [word for word in suspects(store, spec.learned_by) if word.hash in spec.words]
    games, base = [from_log(log) for log in logs], load_base_of(spec)
    policy = Policy(base, spec.adapter, features_of(spec, base, images_of(games)))
    tried = [*spec.made_up, *(word.text for word in words)]
    lost = []
    for each in costs(policy, games, right_turns(logs), tried):
        lost.append(each)
        report(len(lost), len(tried))
    found = {
        word.hash: [(name, turn, cost) for (name, turn), cost in sorted(own.items())]
        for word, own in zip(words, lost[len(spec.made_up) :], strict=True)
    }
    return {"lost": found, "unknown": fmean(cost for each in lost[: len(spec.made_up)] for cost in each.values())}


def guard(spec: GuardSpec) -> dict[str, Any]:
    """Let the policy answer held-out prompts, and measure its replies (`guard_rails`). None of their text is kept."""
    from respect_core.acting.policy import Policy
    from respect_core.log.records import from_log
    from respect_core.measuring import guard_rails
    from respect_core.measuring.guard_pass import observe

    logs = curated.read(spec.workspace.open(), spec.game_set)
    games = {log.interaction_id: from_log(log) for log in logs}
    base = load_base_of(spec)
    features = features_of(spec, base, images_of(games.values()))
    policy = Policy(base, spec.adapter, features, batch_size=spec.profile.play_batch, cache_bytes=0)
    seed = Policy(base, spec.seed_adapter, features, cache_bytes=0) if spec.seed_adapter else None
    chosen = guard_rails.sample(right_turns(logs), spec.prompts)
    right = [replace(games[name], turns=games[name].turns[: turn + 1]) for name, turn in chosen]
    replies = observe(policy, seed, right, spec.max_new_tokens)
    return {"figures": guard_rails.measure(replies)}


def compare(spec: CompareSpec) -> dict[str, Any]:
    """Return the mean log-likelihood per token of each reply to be scored, and what the policy replies itself."""
    from respect_core.acting.decoding import Manner
    from respect_core.acting.policy import Policy
    from respect_core.interaction import waiting
    from respect_core.log.records import from_log

    games = {log.interaction_id: from_log(log) for log in curated.read(spec.workspace.open(), spec.game_set)}
    base = load_base_of(spec)
    policy = Policy(base, spec.adapter, features_of(spec, base, images_of(games.values())))
    scored = [games[name] for name in sorted({name for name, _ in spec.scored})]
    report(0, 2, "scoring")
    sums = dict(zip((game.interaction_id for game in scored), policy.log_probabilities(scored), strict=True))
    lengths = {
        (key.interaction_id, key.turn): length
        for batch in policy.packed(scored)
        for key, length in zip(batch.keys, batch.lengths, strict=True)
    }
    report(1, 2, "replying")
    waiting_games = [waiting(games[name], turn) for name, turn in spec.prompts]
    manner = Manner(policy.manner.constrained, max_new_tokens=spec.reply_tokens)
    replies = [written.text for written in policy.write(waiting_games, manner)] if waiting_games else []
    return {"logp": [sums[name][turn] / lengths[name, turn] for name, turn in spec.scored], "replies": replies}


WORK: dict[str, Callable[[Any], dict[str, Any]]] = {
    work.__name__: work for work in (train, decode, play, propensity, evaluate, triggers, guard, compare)
}


def main(spec_file: Path) -> None:
    """Do what a specification says and leave result.json next to it."""
    from respect_core.learning.distributed import launched, leave

    spec = TypeAdapter(Spec).validate_json(spec_file.read_bytes())
    started = time.monotonic()
    result = WORK[spec.kind](spec)
    if launched().first:  # the first of the processes that trained together has written everything
        if not isinstance(spec, PropensitySpec):  # whose result is a table by interaction
            result["seconds"] = time.monotonic() - started
        write_whole(spec_file.with_name("result.json"), json.dumps(result, indent=1))
        spec_file.with_name(RESUME).unlink(missing_ok=True)
    leave()


def run(spec_file: Path) -> int:
    """Run `main`; return the exit code, which says what kind of failure it was. The error itself goes to the log."""
    try:
        main(spec_file)
    except Exception as error:
        traceback.print_exc()
        packing: Any = sys.modules.get("respect_core.model.packing")  # if not imported, it is not what failed
        if isinstance(error, StoreError) or (isinstance(error, OSError) and error.errno is not None):
            return CUT_OFF  # the store, or the system itself
        if no_room_on_cpu(error):
            return NO_ROOM
        if packing is not None and isinstance(error, packing.GameError):
            named = {"game": error.interaction_id, "turn": error.turn, "reason": error.reason}
            write_whole(spec_file.with_name(CULPRIT), json.dumps(named))
        return 1 if is_transient(error) else REFUSED
    return 0


def _end_with_parent() -> None:
    """End when standard input closes: if it is a pipe, that happens when the parent ends, however it ends."""
    if not stat.S_ISFIFO(os.fstat(0).st_mode):
        return
    os.read(0, 1)  # blocks: nothing is ever written to it
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=_end_with_parent, daemon=True).start()
    specification = Path(sys.argv[1])
    if code := run(specification):
        # The first of several processes to fail knows why; the others only notice that it is missing.
        with suppress(FileExistsError), specification.with_name(EXIT_CODE).open("x") as file:
            file.write(str(code))
    sys.exit(code)
