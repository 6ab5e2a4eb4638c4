"""Two registered versions on held-out prompts: `respect compare`, with a judge behind a real HTTP server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from endpoints import endpoint
from here import ByWord, record_workers
from test_chats import _log
from test_chats import _profile as _chat
from typer.testing import CliRunner

from deployments.cli.main import app
from flows import parameters as parameters_module
from flows.parameters import RoundParameters
from flows.round import round as round_flow
from respect_core.feedback import decoder
from respect_core.profiles import Profile
from respect_core.variants import Variant
from tasks.games.chats import import_chats
from tasks.support.workspace import Workspace, workspace

pytestmark = pytest.mark.timeout(600)


def _profile(name: str) -> Profile:
    """Learns enough in two steps for its replies to differ from the seed policy's."""
    return _chat(name).with_training(learning_rate=0.05)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, prefect_server: None) -> Iterator[Path]:
    """Where runs/mine has a seed policy and b-fft."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parameters_module, "named_profile", _profile)
        patch.setattr("flows.compare.named_profile", _profile)
        patch.setattr(decoder, "FeedbackDecoder", ByWord)
        record_workers(patch)
        root = tmp_path_factory.mktemp("compare")
        patch.chdir(root)
        made: Workspace = workspace(root / "runs" / "mine")
        import_chats(made, [_log(root / "log.jsonl")], _profile("chat"))
        round_flow(made, RoundParameters(round=0, profile="chat", variants=[Variant.B_FFT]))
        yield root


def _compare(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["compare", *arguments, "--run", "mine", "--reply-tokens", "48"])


def test_likelihoods_of_what_users_liked_and_disliked(runs: Path) -> None:
    done = _compare("respect.b-fft/1", "seed")
    assert done.exit_code == 0, done.output
    assert "Log-likelihood per token of " in done.output and "over disliked" in done.output
    assert "chosen by these same replies: respect.b-fft/1" in done.output
    found = json.loads((runs / "runs/mine/comparison-respect.b-fft-1-seed.json").read_text())
    assert found["second"] == {"name": "seed", "version": "respect.seed/1"} and found["judged"] is None
    likelihood, sources = found["likelihood"], found["disliked_from"]
    assert likelihood["liked"] > likelihood["disliked"] == sources["decoded_negative"] > 0
    low, high = likelihood["difference"]["ci95"]
    first, second = (likelihood[name]["value"] for name in ("first", "second"))
    assert low <= first - second <= high and first < 0 and likelihood["first_margin"] is not None


def test_a_judge_of_places_finds_no_winner_and_nonsense_is_set_aside(runs: Path) -> None:
    asked: list[str] = []

    def judge(said: str) -> str:
        asked.append(said)
        return "A" if len(asked) > 2 else "As a language model I cannot say."

    with endpoint(judge) as served:
        arguments = ("--judge", f"openai:some/judge@{served.url}", "--prompts", "5", "--concurrency", "1")
        done = _compare("b-fft", "seed", *arguments)
        assert done.exit_code == 0, done.output
        judged = json.loads((runs / "runs/mine/comparison-b-fft-seed.json").read_text())["judged"]
        assert judged["pairs"] + judged["set_aside"] == 5 and judged["set_aside"] == 1
        assert len(served.asked) == 2 * (5 - judged["equal_replies"])
        assert judged["raw"] == {"value": 0.5, "ci95": [0.5, 0.5]} and judged["ties"] == judged["pairs"]
        assert "1 set aside without a verdict" in " ".join(done.output.split())
    assert "<conversation>" in asked[0] and "You run a home." in asked[0]
    with endpoint(lambda _: "perhaps") as served:
        done = _compare("b-fft", "seed", "--judge", f"openai:some/judge@{served.url}", "--prompts", "2")
    assert done.exit_code == 1 and "with A, B or tie" in " ".join(done.output.split())


def test_what_cannot_be_compared_is_told(runs: Path) -> None:
    for names, reason in (
        (("seed", "respect.seed/1"), "the same version"),
        (("seed", "b-kto"), "no version of b-kto is registered"),
        (("seed", "best"), "'best' is no version"),
    ):
        done = _compare(*names)
        assert done.exit_code == 1 and reason in " ".join(done.output.split()), done.output
    assert _compare("seed", "b-fft", "--judge", "gpt").exit_code == 2
