"""Stand-ins for what takes long in tests of whole flows: processes for workers, and a model for the decoder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import redirect_stderr
from pathlib import Path
from threading import Lock
from typing import Any

import pytest
import torch

from respect_core.feedback.decoder import DecoderConfig, FeedbackDecoder, _odds_of_words
from respect_core.utterances import Reading
from tasks.compute import worker


class ByWord(FeedbackDecoder):
    """The decoder with one rule for a model: what begins with a no is negative."""

    tokens = 0

    def __init__(self, config: DecoderConfig) -> None:
        self.config = config
        self.revision, self.render_chat, self.local = "none", None, None
        self.read: Any = Reading  # every text as it is

    def _odds(self, said: Sequence[Any], kinds: Sequence[Any], progress: Any) -> list[torch.Tensor]:
        pleased = torch.tensor([[not each.follow_up.startswith(("no", "wrong"))] for each in said]) * 4.0 - 2.0
        prompts = [self.config.prompt(kind) for kind in kinds]
        return [
            _odds_of_words(
                torch.cat([pleased * label for label, words in each.words.items() for _ in words], dim=1), each
            )
            for each in prompts
        ]


class _WorkerHere:
    """A worker in this process, which has torch at hand already (test_round.py has them in their own)."""

    lock = Lock()  # loading a model is not for several threads
    stdin, stdout = None, ()

    def __init__(self, spec_file: Path, log: Any) -> None:
        with self.lock, redirect_stderr(log):
            self.code = worker.run(spec_file)

    def wait(self) -> int:
        return self.code

    def kill(self) -> None:
        pass


def record_workers(patch: pytest.MonkeyPatch) -> list[str]:
    """Has workers run here; collects kind, round and variant of every one that is started."""
    started: list[str] = []

    def recorded(command: list[str], *, log: Any, **_: Any) -> _WorkerHere:
        spec = json.loads(Path(command[-1]).read_text())
        started.append(" ".join(str(spec.get(name)) for name in ("kind", "round", "variant")))
        return _WorkerHere(Path(command[-1]), log)

    patch.setattr("tasks.compute.process.start", recorded)
    return started
