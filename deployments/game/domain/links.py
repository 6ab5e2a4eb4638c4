"""Sign and check the links by which participants come to a study, so that nobody comes as somebody else."""

from __future__ import annotations

import time
from urllib.parse import urlencode

from respect_core.signatures import sign, signed

_PURPOSE = "participant of a study"


def participant_link(url: str, study: str, participant: str, days: float, key: str) -> str:
    """Return a participant's link. What is behind `#` reaches neither a proxy's log nor another site."""
    until = int(time.time() + days * 24 * 3600)
    fields = {"study": study, "participant": participant, "until": until}
    fields["signature"] = sign(key, _PURPOSE, study, participant, str(until))
    return f"{url.rstrip('/')}/#{urlencode(fields)}"


def is_signed(study: str, participant: str, until: int | None, signature: str | None, key: str) -> bool:
    """Whether a link with these fields was made with the key, and its time is not over."""
    if until is None or signature is None or until < time.time():
        return False
    return signed(signature, key, _PURPOSE, study, participant, str(until))
