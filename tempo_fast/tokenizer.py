"""Prompt text to token ids: a template's, in which special tokens count, and a user's."""

from __future__ import annotations

import threading

from transformers import PreTrainedTokenizerBase


class PromptTokenizer:
    """A tokenizer that several threads may use in both ways.

    The library keeps whether special tokens are recognised as a state of the tokenizer, so one call
    must not begin before another has ended.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self._lock = threading.Lock()

    def encode(self, texts: list[str]) -> list[list[int]]:
        """The ids of a template's texts; names of special tokens are those tokens.

        All at once: most of the time that one takes is the library's around it.
        """
        return self._encode(texts, as_text=False) if texts else []

    def encode_text(self, text: str) -> list[int]:
        """The ids of a user's text; names of special tokens are ordinary characters."""
        return self._encode(text, as_text=True)

    def _encode(self, text: str | list[str], *, as_text: bool) -> list:
        with self._lock:
            encoded = self.tokenizer(text, add_special_tokens=False, split_special_tokens=as_text)
        return encoded.input_ids

    def decode(self, ids: list[int]) -> str:
        """Text without special tokens."""
        return self.tokenizer.decode(ids, skip_special_tokens=True)
