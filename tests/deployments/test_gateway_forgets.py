"""A user of a running gateway is forgotten: nothing of the conversation is left, nor comes when it continues."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from gateways import chat_profile, serving
from policy_servers import registered, until
from seaweedfs import S3Server
from traces import in_folder, in_store

from deployments.serving.gateway.live import Live
from respect_core.log import forgetting
from respect_core.log.export import export_everything
from respect_core.log.pseudonyms import pseudonym
from respect_core.log.served_chats import CONVERSATIONS, read
from tasks.release.forget import forget
from tasks.round.collect import collect

pytestmark = [pytest.mark.timeout(300), pytest.mark.heavy]
SECRET = "zébra"


@pytest.mark.parametrize("kind", ["directory", "s3"])
def test_a_conversation_is_forgotten_while_it_goes_on(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "s3":
        server: S3Server = request.getfixturevalue("s3_server")
        for name, value in {**server.environment, "RESPECT_STORE": f"s3://{server.bucket}/{tmp_path.name}"}.items():
            monkeypatch.setenv(name, value)
    place = registered(tmp_path, chat_profile())
    store, header = place.open(), "x-conversation-id"
    live = Live(store, lambda: [("b-fft", "respect.seed/1")])
    with serving(place, idle=0.1) as gateway:
        for number in range(2):  # one is collected before, the other is not
            gateway.say(f"a {SECRET}", user="ann", extra_headers={header: f"anns-{number}"})
            gateway.say("hello", user="bob", extra_headers={header: f"bobs-{number}"})
            until(lambda number=number: len(store.keys(f"{CONVERSATIONS}/")) == 2 * number + 2)  # type: ignore[misc]
            until(lambda number=number: len(list(read(store))) == 2 * number + 2)  # type: ignore[misc]
            if number == 0:
                assert collect(store, now=time.time() + 1).conversations == 2
                export_everything(store)
        live.compute()
        assert live.evidence is not None and sum(each.conversations for each in live.evidence.versions) == 4
        assert in_store(store, SECRET)

        gateway.say(f"{SECRET} once more", user="ann", extra_headers={header: "anns-late"})  # on this disk alone
        receipt = forget(place, forgetting.user(pseudonym("ann")))
        gateway.say(f"a {SECRET}", "yes", "and?", user="ann", extra_headers={header: "anns-1"})  # goes on
        gateway.say("something new", user="ann", extra_headers={header: "anns-new"})
        until(lambda: any("something new" in store.read(key).decode() for key in store.keys("served_chats/")))
        assert receipt.tombstone.conversations and in_store(store, SECRET) == []
        live.compute()
        assert sum(each.conversations for each in live.evidence.versions) == 3, "Bob's, and the new one"
        assert collect(store, now=time.time() + 1).conversations == 2
        export_everything(store)
    assert in_store(store, SECRET) == [] and in_folder(tmp_path, SECRET) == []
