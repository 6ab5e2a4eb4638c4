"""Decode the follow-ups of the conversations that gateways served before their round does, as a Prefect flow."""

from __future__ import annotations

from prefect import flow

from flows.parameters import DecodeParameters
from flows.support.locks import in_turn
from flows.support.threads import threads
from respect_core.log.log import LOGS
from respect_core.profiles import profile as named_profile
from respect_core.store.manifests import partitions_with
from tasks.compute.places import Place, require
from tasks.round.collect import collect_chats
from tasks.round.decode import decode_feedback
from tasks.round.export import export_interactions
from tasks.support.references import FeedbackRef
from tasks.support.workspace import Workspace


@flow(name="decode ahead", flow_run_name="decode ahead", task_runner=threads())
def decode(workspace: Workspace, parameters: DecodeParameters, on: Place = Place.HERE) -> FeedbackRef:
    """Collect, export and decode, as the next round will, which finds done what is done.

    Raises:
        ValueError: there is no interaction at all.
        RayMissingError: it is to run on Ray, which is not installed.
    """
    require(on)
    profile = named_profile(parameters.profile)
    with in_turn(workspace):
        collect_chats(workspace)
        newest = max((each.round for each in partitions_with(workspace.open(), LOGS, ".jsonl")), default=0)
        export_interactions(workspace, newest, profile)
        return decode_feedback(workspace, profile, newest, on=on)
