"""Where decoding and training run. Any place takes the same specification and returns the same result."""

from __future__ import annotations

from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from respect_core.errors import ExpectedError
from tasks.compute import process
from tasks.compute.process import ProgressCallback

if TYPE_CHECKING:
    from tasks.compute.specs import Movable


class Place(StrEnum):
    """A place that computes."""

    HERE = "here"  # processes of this machine
    POOLS = "pools"  # runs on the GPU work pool, in processes of the worker's machine
    RAY = "ray"  # processes on the nodes of a Ray cluster


class RayMissingError(ExpectedError, ValueError):
    """Ray, an extra of this project, is not installed; the message says how to."""


class Run(Protocol):
    """Carries out a specification; see `process.run`."""

    def __call__(
        self,
        spec: Movable,
        directory: Path,
        progress: ProgressCallback,
        *,
        all_cores: bool = False,
        again: bool = False,
        spread: bool = False,
    ) -> Path: ...


def require(place: Place) -> None:
    """Check a place before a flow does anything. Raises RayMissingError if it is Ray, which is not installed."""
    if place is Place.RAY and find_spec("ray") is None:
        raise RayMissingError('Ray is not installed: pip install "respect[ray]"')


def runner(place: Place) -> Run:
    """Return the function that a task calls with a specification. A run on a pool is already on its worker's machine.

    Raises:
        RayMissingError: the place is Ray, which is not installed.
    """
    require(place)
    if place is Place.RAY:
        from tasks.compute import on_ray

        return on_ray.run
    return process.run
