"""Name the text that players agree to: by a hash of the page, so that another text is another consent."""

from __future__ import annotations

import hashlib
from pathlib import Path

CONSENT = hashlib.sha256((Path(__file__).parents[1] / "web/pages/consent.html").read_bytes()).hexdigest()[:12]
