"""Give a plain tokenizer the methods of a processor, for base models that take no images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


class TextProcessor:
    """A processor of text alone.

    Args:
        tokenizer: with a chat template. Where it has no padding token, its end token serves: padding is always masked.
    """

    image_token_id: None = None

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token

    def apply_chat_template(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> str:
        """Return the text of a conversation, whose messages hold typed parts as a processor's do."""
        plain = [
            {"role": message["role"], "content": "".join(part["text"] for part in message["content"])}
            for message in messages
        ]
        return str(self.tokenizer.apply_chat_template(plain, **options))

    def __call__(self, text: Sequence[str], **options: Any) -> Any:
        """Tokenise texts, without a second beginning token where the chat template has written one."""
        bos = self.tokenizer.bos_token
        written = bool(bos) and all(each.startswith(bos) for each in text)
        return self.tokenizer(list(text), add_special_tokens=not written, **options)

    def save_pretrained(self, folder: Path) -> None:
        self.tokenizer.save_pretrained(folder)
