"""Define events: what happens in a game, as the journal holds it."""

from __future__ import annotations

from typing import Any

Event = dict[str, Any]
"""'kind' says what happened; the rest is JSON."""
