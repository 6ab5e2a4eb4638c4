"""The gateway in front of a real vLLM server on this machine's processor: `make test-vllm`."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import statistics
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import torch
from gateways import Running, probabilities, serving
from paths import REPOSITORY
from policy_servers import MODEL, SEED, promote, registered, roll_back, until

from deployments.serving.gateway import vllm
from deployments.serving.versions import PolicyLoader
from respect_core.model import base
from respect_core.profiles import Profile
from respect_core.profiles import profile as named_profile
from tasks.round.collect import collect
from tasks.support.workspace import Workspace

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(1800)]
PYTHON = os.environ.get("RESPECT_TEST_VLLM_PYTHON", str(REPOSITORY / ".venv-vllm/bin/python"))
PATIENCE = 300.0
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.2}
"""Nats a token, of a reply: vLLM's kernels and ours round differently."""
QUESTIONS = [f"Answer with one word: is {number} {kind}?" for number in range(2, 40) for kind in ("even", "prime")]


@contextlib.contextmanager
def vllm_server(profile: Profile) -> Iterator[str]:
    """Start a server, and yield its address."""
    python = shutil.which(PYTHON)
    if python is None:
        pytest.skip(f"no vLLM at {PYTHON}: make test-vllm installs it, or set RESPECT_TEST_VLLM_PYTHON")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    small = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "HF_HUB_OFFLINE": "1"}
    given = [*vllm.command(profile, port, python), "--enforce-eager", "--max-model-len", "2048"]
    with subprocess.Popen(given, env=os.environ | small, start_new_session=True) as process:
        try:
            began = time.monotonic()
            while not _answers(url):
                assert process.poll() is None and time.monotonic() - began < PATIENCE
                time.sleep(0.5)
            yield url
        finally:
            os.killpg(process.pid, 15)


def _answers(url: str) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(f"{url}/health").status_code == 200
    return False


@pytest.fixture(scope="module")
def profile() -> Profile:
    return named_profile("chat")


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16], ids=str)
def precision(request: pytest.FixtureRequest) -> Iterator[torch.dtype]:
    """Of training and of vLLM, which takes it from there."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (base, vllm):
            patch.setattr(module, "precision", lambda *_: request.param)
        yield request.param


@pytest.fixture(scope="module")
def server(profile: Profile, precision: torch.dtype) -> Iterator[str]:
    with vllm_server(profile) as url:
        yield url


def _place(folder: Path, profile: Profile) -> Workspace:
    return registered(folder, profile, scale=0.005)


def test_the_served_probability_is_the_one_that_training_computes(
    tmp_path: Path, profile: Profile, server: str, precision: torch.dtype
) -> None:
    """From a request over vLLM, the log and its collection to the packed pass."""
    place = _place(tmp_path, profile)
    promote(place, 1)
    with serving(place, vllm=server, idle=0.05) as gateway:
        for number, question in enumerate(QUESTIONS[:40]):
            first = gateway.say(question, user=f"user-{number}", seed=number, max_tokens=60)
            said = first.choices[0].message.content or "-"
            gateway.say(question, said, "are you sure?", user=f"user-{number}", seed=number, max_tokens=60)
    collect(place.open(), now=time.time() + 60)
    policy = PolicyLoader(place).load_named(f"{MODEL}/1").policy
    known = probabilities(place, policy)
    assert len(known) >= 50
    errors = [abs(logged - computed) / tokens for logged, computed, tokens in known]
    figures = f"mean {statistics.mean(errors):.6f}, largest {max(errors):.6f} nats a token"
    print(f"{precision}: {len(known)} replies of {sum(tokens for *_, tokens in known)} tokens, {figures}")
    assert max(errors) < TOLERANCE[precision]


def _answers_of(gateway: Running, version: str) -> list[str]:
    until(lambda: gateway.http.get("/ready").json()["variants"]["b-fft"]["version"] == version)
    said = []
    for question in QUESTIONS[:10]:
        answer = gateway.say(question, temperature=0.0, max_tokens=20, user=f"{version} {time.time()}")
        assert answer.system_fingerprint == version
        said.append(str(answer.choices[0].message.content))
    return said


def test_what_is_promoted_and_rolled_back_is_served_as_by_fresh_servers(
    tmp_path: Path, profile: Profile, server: str
) -> None:
    place = _place(tmp_path, profile)
    with serving(place, vllm=server) as gateway:
        of_seed = _answers_of(gateway, SEED)
        promote(place, 1)
        first = _answers_of(gateway, f"{MODEL}/1")
        promote(place, 2)
        second = _answers_of(gateway, f"{MODEL}/2")
        roll_back(place)
        assert _answers_of(gateway, f"{MODEL}/1") == first
    assert len({tuple(answers) for answers in (of_seed, first, second)}) == 3, "the versions differ"
    with vllm_server(profile) as fresh:
        with serving(place, vllm=fresh) as gateway:
            assert _answers_of(gateway, f"{MODEL}/1") == first
        promote(place, 2)
        with serving(place, vllm=fresh) as gateway:
            assert _answers_of(gateway, f"{MODEL}/2") == second
