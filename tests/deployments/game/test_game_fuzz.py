"""The API under schemathesis: whatever its schema allows, and much that it does not, is never answered with a 5xx."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from game_servers import LOOSE, Running, rooms, serving
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error

from deployments.game.web.app import create_app

pytestmark = pytest.mark.timeout(1200)
TOKEN = "an operator's token"
ANNOTATOR = "an annotator's token"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    made = rooms(
        tmp_path_factory.mktemp("game"), limits=LOOSE, operator_token=TOKEN, annotator_tokens={ANNOTATOR: "ann"}
    )
    with serving(made) as server:
        yield server


@pytest.fixture(scope="module")
def cookies(running: Running) -> dict[str, str]:
    """Of somebody who has arrived."""
    with httpx.Client(base_url=f"http://127.0.0.1:{running.port}", timeout=60) as client:
        client.post("/api/arrive", json={})
        return dict(client.cookies)


def _try(operation: Any, base: str, cookies: dict[str, str], token: str) -> None:
    """Requests that the schema allows, and requests that it does not. Raises where an answer is a 5xx."""

    @settings(max_examples=15, database=None, suppress_health_check=list(HealthCheck))
    @given(case=st.one_of([operation.as_strategy(mode) for mode in GenerationMode]))
    def answered(case: Any) -> None:
        for headers in ({}, {"Authorization": f"Bearer {token}"}):
            answer = case.call(base_url=base, cookies=cookies, headers=headers)
            case.validate_response(answer, checks=[not_a_server_error])

    answered()


def test_no_answer_is_a_5xx(running: Running, cookies: dict[str, str]) -> None:
    """By somebody who plays, operates and annotates, so that what lies behind the doors is reached too."""
    schema = schemathesis.openapi.from_dict(create_app(running.rooms).openapi())
    operations = [found.ok() for found in schema.get_all_operations()]
    for operation in operations:
        token = ANNOTATOR if "annotate" in operation.path else TOKEN
        _try(operation, f"http://127.0.0.1:{running.port}", cookies, token)
    assert "POST /api/games" in {operation.label for operation in operations} and len(operations) > 15
