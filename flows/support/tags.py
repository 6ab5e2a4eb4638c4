"""How a flow run is found among others: its tags and its name."""

from __future__ import annotations

from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext


def label_run(*tags: str, name: str | None = None) -> None:
    """Add tags to the flow run that this is called in, and rename it if a name is given."""
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        return
    with get_client(sync_client=True) as client:
        run = client.read_flow_run(context.flow_run.id)
        client.update_flow_run(run.id, tags={*run.tags, *tags}, name=name or run.name)
