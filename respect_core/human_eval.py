"""Human evaluation (appendix A.2): which turns to annotate, what annotators see, and what they answer.

Annotators see a game turn by turn, without its targets. Of a turn they say first which action they would have taken
(the intended action a*); then they see the action that was taken and the follow-up, and say whether the speaker was
satisfied with it. One row of the `annotations` table is one annotator's word on one turn.
"""

from __future__ import annotations

from typing import Literal

from respect_core.interaction import ANNOTATIONS_SCHEMA as ANNOTATIONS_SCHEMA

ANNOTATIONS = "annotations"
Satisfaction = Literal["yes", "partial", "incorrect", "no"]
SATISFACTION: tuple[Satisfaction, ...] = ("yes", "partial", "incorrect", "no")
"""Satisfied; satisfied, though not all that was asked for was selected; satisfied, though the selection was wrong;
not satisfied (appendix A.2)."""
