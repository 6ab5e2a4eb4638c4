"""What a round cost, from the store and what a run leaves behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from samples import feedback_row

from respect_core.cost import Cost, read_cost
from respect_core.interaction import FEEDBACK_SCHEMA
