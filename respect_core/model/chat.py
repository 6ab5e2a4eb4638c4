"""Turn conversations into text and tokens under one processor: where each message is, how an action is tokenised.

Nothing here depends on a certain chat template or tokenizer; the processor's own are used.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any

from respect_core.scenario import Message
from respect_core.utterances import Reader

_PLACEHOLDER = "nothing"
_NO_LIMIT = 1 << 30  # tokens


def _say(role: str, text: str) -> Message:
    return {"role": role, "content": [{"type": "text", "text": text}]}


_PROBE = [
    {"role": "system", "content": [{"type": "image"}, {"type": "text", "text": "A"}]},
    *(_say("system", "none is selected"), _say("user", "a bird"), _say("assistant", "select A")) * 2,
    _say("system", "none is selected"),
    _say("user", "a bird"),
]
_TEXT_PROBE = [_say("user", "a bird"), _say("assistant", "select A"), _say("user", "a bird")]


class Chat:
    """The text and tokens of conversations under one processor.

    Raises:
        ValueError: the chat template does not close an assistant message with the end token, or does not render
            a conversation as the beginning of a longer one.
    """

    def __init__(self, processor: Any) -> None:
        self.processor = processor
        tokenizer = processor.tokenizer
        end = getattr(processor, "end_of_utterance_token", None) or tokenizer.eos_token
        self.end_token = str(getattr(end, "content", end))
        self.end_id: int = tokenizer.convert_tokens_to_ids(self.end_token)
        self.pad_id: int = tokenizer.pad_token_id
        self.image_id: int | None = processor.image_token_id  # None: the base takes no images
        limit = tokenizer.model_max_length  # includes the base's (`base.load_base`); huge where it is not set
        self.positions: int | None = limit if limit < _NO_LIMIT else None
        self._read = Reader(tokenizer)
        self._render_text = lru_cache(100_000)(lambda role, text: self.render([_say(role, text)]))
        probe = _TEXT_PROBE if self.image_id is None else _PROBE
        self.generation_prompt = self.render(probe, generate=True).removeprefix(self.render(probe))
        # Most templates render message by message; then each message is rendered once, whatever its neighbours.
        self._additive = "".join(self.render([message]) for message in probe) == self.render(probe)
        answer = self.pieces([*probe, _say("assistant", _PLACEHOLDER)])[-1]
        before, placeholder, after = answer.partition(_PLACEHOLDER)
        if not (before.startswith(self.generation_prompt) and placeholder and self.end_token in after):
            raise ValueError(
                f"chat template renders an action as {answer!r}; expected it between "
                f"{self.generation_prompt!r} and {self.end_token!r}"
            )
        self._before = before.removeprefix(self.generation_prompt)
        self._after = after[: after.index(self.end_token) + len(self.end_token)]
        self._words: dict[str, tuple[int, ...]] = {}
        # Whether an action's tokens are those of its words, concatenated, as with nearly every tokenizer.
        self.words_stand_alone = True
        action = "deselect A B select C D"
        self.words_stand_alone = self.action_tokens([action]) == [self._tokens_after_prompt(action)]

    def render(self, messages: Sequence[Message], *, generate: bool = False) -> str:
        """Return the text of a conversation; with `generate`, up to where the assistant's next action begins."""
        return self.processor.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=generate)

    def pieces(self, messages: Sequence[Message]) -> list[str]:
        """Return the text of each message; joined, they are the text of the conversation."""
        messages = [self._clean(message) for message in messages]
        if self._additive:
            return [self._piece(message) for message in messages]
        lengths = [0, *(len(self.render(messages[: stop + 1])) for stop in range(len(messages)))]
        whole = self.render(messages)
        return [whole[start:stop] for start, stop in pairwise(lengths)]

    def _piece(self, message: Message) -> str:
        parts = message["content"]
        if len(parts) != 1 or parts[0]["type"] != "text":
            return self.render([message])
        return self._render_text(message["role"], parts[0]["text"])

    def _clean(self, message: Message) -> Message:
        """Neutralise special tokens (such as an image's) in a message, so that it stays text.

        In what users and tools wrote, role names are neutralised too.
        """
        role, parts = message["role"], message["content"]
        if role in ("user", "tool"):
            return _say(role, " ".join(self._read(part["text"]).text for part in parts))
        if any(part["type"] != "text" for part in parts):
            return message
        return _say(role, self._read.without_special_tokens("".join(part["text"] for part in parts)))

    def count(self, text: str) -> int:
        """Count the tokens of a user's text alone, without its message's markup."""
        (part,) = self._clean(_say("user", text))["content"]
        return len(self.processor.tokenizer(part["text"], add_special_tokens=False, verbose=False)["input_ids"])

    def tokens(self, pieces: Sequence[str], *, generate: bool) -> tuple[list[int], list[int]]:
        """Return the tokens of a conversation, with images expanded.

        Args:
            pieces: from `pieces`; only the first may have images.
            generate: end with the generation prompt.

        Returns:
            input_ids [T], and per token the position of its end counted from the end of the text (for positions
            after the images, whose expansion moves all that follows).
        """
        text = "".join(pieces) + (self.generation_prompt if generate else "")
        # A sentinel at the end marks where the text ends once the processor has expanded it.
        encoded = self.processor(text=[text + self.end_token], return_offsets_mapping=True)
        ids, offsets = encoded["input_ids"][0], encoded["offset_mapping"][0]
        last = len(ids) - 1 - ids[::-1].index(self.end_id)
        end = offsets[last][0]
        return ids[:last], [end - stop for _, stop in offsets[:last]]

    def action_tokens(self, actions: Iterable[str]) -> list[tuple[int, ...]]:
        """Return the tokens of each action after the generation prompt, end token included."""
        if self.words_stand_alone:
            return [
                (*(t for word in action.split() for t in self.word_tokens(word)), self.end_id) for action in actions
            ]
        return [self._tokens_after_prompt(action) for action in actions]

    def word_tokens(self, word: str) -> tuple[int, ...]:
        """Return the tokens of one word of an action; they make up the action's if `words_stand_alone`."""
        if word not in self._words:
            self._words[word] = self._tokens_after_prompt(word)[:-1]
        return self._words[word]

    def _tokens_after_prompt(self, action: str) -> tuple[int, ...]:
        # An utterance comes first, since some tokenizers treat the start of a text differently.
        prefix = "".join(self.pieces([_say("user", "a bird")])) + self.generation_prompt
        tokenizer = self.processor.tokenizer
        skip = len(tokenizer(prefix)["input_ids"])
        ids = tokenizer(prefix + self._before + action + self._after)["input_ids"]
        return tuple(ids[skip : ids.index(self.end_id, skip) + 1])


@lru_cache(maxsize=8)
def chat(processor: Any) -> Chat:
    """Return the one Chat of a processor."""
    return Chat(processor)
