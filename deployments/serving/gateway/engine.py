"""Define engines, which load versions and draw the tokens of replies, in this process or in another server."""

from __future__ import annotations

from typing import Protocol

from deployments.serving.base import Settings
from deployments.serving.versions import LoadedVersion, Loader, PolicyLoader, Version
from respect_core.acting.reply import Emit, Reply, Sampling
from respect_core.acting.streaming import Streams
from respect_core.model.packing import Encoded
from tasks.support.workspace import Workspace


class Engine(Protocol[Version]):
    """Loads versions, and writes their replies token by token."""

    @property
    def loader(self) -> Loader[Version]:
        """What makes versions ready to write."""

    @property
    def waiting(self) -> int:
        """Number of replies of which nothing is written yet."""

    def submit(self, version: Version, prompt: Encoded, sampling: Sampling, emit: Emit) -> Reply:
        """Queue a reply; call from the server's event loop. Raises OverloadedError: too many wait."""

    def close(self) -> None:
        """Finish all replies, then stop."""


class InProcess(Engine[LoadedVersion]):
    """The engine of this process: every version's weights in memory, over one base model."""

    def __init__(self, workspace: Workspace, settings: Settings) -> None:
        self._loader = PolicyLoader(workspace, cache_bytes=settings.cache_bytes, most=settings.most)
        self.streams: Streams[LoadedVersion] = Streams(
            lambda served: served.policy.writer, most=settings.most, queue=settings.queue
        )

    @property
    def loader(self) -> PolicyLoader:
        """What loads weights."""
        return self._loader

    @property
    def waiting(self) -> int:
        """Number of replies of which nothing is written yet."""
        return self.streams.waiting

    def submit(self, version: LoadedVersion, prompt: Encoded, sampling: Sampling, emit: Emit) -> Reply:
        """Queue a reply. Raises OverloadedError: too many wait."""
        return self.streams.submit(version, prompt, sampling, emit)

    def close(self) -> None:
        """Finish all replies, then stop."""
        self.streams.close()
