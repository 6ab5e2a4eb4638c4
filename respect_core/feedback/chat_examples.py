"""Worked examples of users' replies to an assistant, for the few-shot prompts of small decoders. All are invented."""

from __future__ import annotations

from respect_core.feedback.prompts import NEGATIVE, POSITIVE, Example, Exchange

# In half the user is not satisfied: they correct, object, repeat themselves, or ask for the same thing again. In half
# they are: they thank, approve, build on the answer, or move on to something else.
EXAMPLES = (
    Example(
        Exchange(None, "book a table for two at seven", "Done: a table for four at seven.", "no, I said two people"),
        NEGATIVE,
    ),
    Example(
        Exchange(None, "what is a good name for a cat?", "How about Pepper?", "ha, love it. And one for a parrot?"),
        POSITIVE,
    ),
    Example(
        Exchange(
            None,
            "sort this list in Python",
            "Use list.sort(key=len).",
            "That doesn't work, I still get the same error: TypeError",
        ),
        NEGATIVE,
    ),
    Example(
        Exchange(
            None, "explain photosynthesis", "Plants turn light into sugar ...", "What role does chlorophyll play?"
        ),
        POSITIVE,
    ),
    Example(
        Exchange(None, "write a short poem about rain", "The rain in long and silver lines ...", "too long. shorter."),
        NEGATIVE,
    ),
    Example(
        Exchange(
            None,
            "find me a flight to Oslo on Friday",
            "There is one at 9:40 for 120 euros.",
            "perfect, please book that one",
        ),
        POSITIVE,
    ),
    Example(
        Exchange(None, "who painted this?", "It was painted by Monet.", "Are you sure? I think that's wrong."), NEGATIVE
    ),
    Example(
        Exchange(
            None,
            "summarise the meeting notes",
            "The team agreed to ship in May ...",
            "Great, thank you! Now write an e-mail to the team about it",
        ),
        POSITIVE,
    ),
    Example(
        Exchange(None, "turn on the kitchen light", "The bedroom light is on.", "not the bedroom, the kitchen!"),
        NEGATIVE,
    ),
    Example(
        Exchange(None, "any thrillers you would recommend?", "Have you seen Heat?", "I have, and I liked it a lot"),
        POSITIVE,
    ),
    Example(
        Exchange(
            None,
            "any thrillers you would recommend?",
            "Try a comedy such as Airplane!",
            "I don't like comedies, I asked for a thriller",
        ),
        NEGATIVE,
    ),
    Example(
        Exchange(
            None,
            "translate this into Spanish",
            "Buenos días a todos ...",
            "continue with the next paragraph",
        ),
        POSITIVE,
    ),
    Example(
        Exchange(
            None, "what time does it open?", "What would you like to know?", "I already told you, the opening time"
        ),
        NEGATIVE,
    ),
    Example(Exchange(None, "is it far?", "It is a ten-minute walk.", "ok, that works for me"), POSITIVE),
    Example(
        Exchange(
            None,
            "give me five ideas for a party",
            "1. Music 2. Food 3. Games",
            "You only gave me three. Please redo it with five ideas.",
        ),
        NEGATIVE,
    ),
    Example(
        Exchange(None, "how do I boil an egg?", "Boil it for eight minutes.", "and how long for a soft one?"), POSITIVE
    ),
)
