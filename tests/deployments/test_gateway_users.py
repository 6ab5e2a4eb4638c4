"""Simulated users talk to the gateway; a random model disappoints them, and their last word is a follow-up."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest
from gateways import serving
from policy_servers import SEED, registered, until
from text_bases import small_llama
from typer.testing import CliRunner

from deployments.cli.main import app
from deployments.serving.gateway.users import GatewayAwayError, talk
from respect_core.log import served_chats
from respect_core.log.log import LOGS, read_logs
from respect_core.profiles import profile
from tasks.round.collect import collect

pytestmark = pytest.mark.timeout(600)


def test_what_simulated_users_say_becomes_interactions(tmp_path: Path) -> None:
    home = replace(profile("home"), base=small_llama(), lora=profile("chat").lora)
    place = registered(tmp_path, home)
    with serving(place, idle=0.1) as gateway:
        talked = talk(gateway.url, "home", 5, seed=1, at_once=3)
        assert talked.conversations == {SEED: 5} and talked.finished == {SEED: 0}
        assert CliRunner().invoke(app, ["talk", gateway.url, "--conversations", "1"]).exit_code == 0
    until(lambda: len({chat.conversation_id for chat in served_chats.read(place.open())}) == 6)
    collected = collect(place.open(), now=time.time() + 60)
    logs = [log for key in place.open().keys(f"{LOGS}/") for log in read_logs(place.open(), key)]
    assert collected.conversations == len(logs) == 6 and {log.scenario for log in logs} == {"home"}
    assert all(turn.action for log in logs for turn in log.turns) and max(len(log.turns) for log in logs) > 2


def test_a_gateway_that_is_away_is_named() -> None:
    with pytest.raises(GatewayAwayError, match="does not answer"):
        talk("http://127.0.0.1:9", "home", 2, seed=0)
