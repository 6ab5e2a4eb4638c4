"""List the words that are one token each; all other text is spelled out in characters."""

from __future__ import annotations

import string

from respect_core.scenarios.multiref.actions import LETTERS, NOTHING
from respect_core.scenarios.multiref.attributes import LEXICON

ROLES = ("System:", "User:", "Assistant:")
IMAGE, AROUND_IMAGE, END = "<image>", "<fake_token_around_image>", "<end_of_utterance>"
SPECIAL = ("<unk>", "<s>", "</s>", "<pad>", END, AROUND_IMAGE, IMAGE, *ROLES)

# Words of the game and its messages.
GAME = ("select", "deselect", NOTHING, "none", "is", "currently", "selected")

# Common words of instructions, reactions and shapes, beyond the lexicon.
COMMON = """
the an and or of to in on at it its that this these those with without for from by as but not no nope yes yeah yep
ok okay sure right wrong good great perfect nice correct excellent exactly awesome well done fine cool thanks thank
you your we me my he she they them his her there here now then next again also too only just still first second
third last final one ones two three four both all other another each every any some same different more less most
very really quite bit little big small large tiny huge long short high low upper lower top bottom left right middle
center side sides edge edges corner corners point points pointing pointed pointy flat sharp straight round square
squares triangle triangles diamond parallelogram shape shapes piece pieces tangram image picture head body leg legs
arm arms foot feet hand hands tail back front hat face nose ear ears neck wing wings standing sitting running
walking kneeling dancing lying facing looking looks look like person man woman guy bird dog cat rabbit fish animal
horse duck house tree boat ship letter number black white up down above below over under near far out off into
try undo remove unselect unclick click clicked choose pick find get go going take keep put want need see have has had
is are was were be been do does did can could should would will let lets please wait oops sorry almost close keep
start restart reset clear everything anything something nothing mistake picked chose chosen previous before after
what which who where when how if so because think guess believe mean means meant maybe probably kind sort type
remaining left leave add added move moving time once more many much old new already yet almost quite best better
bad incorrect false true job work works got it's that's don't doesn't isn't i'm let's you're there's didn't wasn't
step steps part parts half whole open closed empty full end ends line lines side slanted tilted turned upside
about around through between behind beside against toward towards away together apart than same similar
"""

SUFFIXES = ("s", "es", "ed", "er", "est", "ing", "ly", "y", "n't", "'s")


def words() -> list[str]:
    """Return every whole-word token but the special ones, each once, in a fixed order."""
    lexicon = [
        word
        for by_value in LEXICON.values()
        for value in by_value.values()
        for word in value.technical + value.figurative
    ]
    characters = [c for c in string.printable if not c.isspace()]
    pieces = ["##" + piece for piece in [*characters, *SUFFIXES]]
    return list(dict.fromkeys([*LETTERS, *GAME, *lexicon, *COMMON.split(), *characters, *pieces]))
