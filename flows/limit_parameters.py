"""The parameters of rounds that limit how much users teach."""

from __future__ import annotations

from dataclasses import replace

from pydantic import BaseModel, Field

from respect_core.variants import UserLimits


class LimitParameters(BaseModel):
    """Changes of a profile's limits."""

    user_turns: int | None = Field(
        default=None, ge=1, description="Most labelled turns of a user, over all rounds. Empty: the profile's."
    )
    day_turns: int | None = Field(
        default=None, ge=1, description="Most labelled turns of a user on a day. Empty: the profile's."
    )
    address_turns: int | None = Field(
        default=None,
        ge=1,
        description="Most labelled turns of an address prefix, by users who are not signed in. Empty: the profile's.",
    )
    anonymous_weight: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="Weight of a labelled turn by a user who is not signed in. Empty: the profile's.",
    )

    def limits(self, given: UserLimits) -> UserLimits:
        """Return a profile's limits with the changes made here."""
        changes = {name: value for name in LimitParameters.model_fields if (value := getattr(self, name)) is not None}
        return replace(given, **changes)
