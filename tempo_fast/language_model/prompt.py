"""The language model's prompt: time tags and projected memory tokens between two pieces of text."""

from __future__ import annotations

from itertools import accumulate

import torch

from tempo_fast.compression.allocation import Allocation
from tempo_fast.compression.prompt import time_tag
from tempo_fast.engine import ops
from tempo_fast.engine.streams import upload
from tempo_fast.errors import OptionError
from tempo_fast.models.tempo import TempoModel
from tempo_fast.tokenizer import PromptTokenizer

BEFORE = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
AFTER = "<|im_end|>\n<|im_start|>assistant\n"
# Tokens of the context that the published code leaves free beside text and visual part.
SPARE = 16


class LanguagePrompt:
    """Writes prompts for the language model of a Tempo, with the tokenizer of its checkpoint."""

    def __init__(self, tokenizer: PromptTokenizer, model: TempoModel) -> None:
        self._encode, self._encode_text = tokenizer.encode, tokenizer.encode_text
        self.model = model
        start, end = ("<im_start>", "<im_end>") if model.config.image_start_end else ("", "")
        self._before, self._image_end, self._after = self._encode([BEFORE + start, end, AFTER])

    def text(self, query: str) -> tuple[list[int], list[int]]:
        """Ids before and after the visual part. Text that looks like a special token is text."""
        after = self._image_end + self._encode_text(f"\n{query}") + self._after
        return self._before, after

    def visual_room(self, query: str, max_length: int) -> int:
        """Tokens of the context that the visual part may take.

        Raises OptionError when the question leaves none.
        """
        text = sum(map(len, self.text(query)))
        if text + SPARE >= max_length:
            raise OptionError(
                f"the question's prompt has {text} tokens of text, which leaves no room for the "
                f"video in a context of {max_length}: raise tokenizer_model_max_length above "
                f"{text + SPARE}, or shorten the question"
            )
        return max_length - text - SPARE

    def tags(self, centres: list[float] | None, segments: int) -> tuple[list[int], list[int]]:
        """Ids of all segments' time tags, packed, and the number of each.

        centres: the moment of each segment in seconds; None (an image) writes no tags.
        """
        if centres is None:
            return [], [0] * segments
        tags = self._encode([time_tag(centre) for centre in centres])
        return [token for tag in tags for token in tag], [len(tag) for tag in tags]

    def assemble(
        self,
        query: str,
        tokens: torch.Tensor,
        allocation: Allocation,
        centres: list[float] | None,
        max_length: int,
    ) -> torch.Tensor:
        """The input embeddings [L, E] of a whole prompt.

        tokens: the kept memory tokens [Σk, D] of `allocation`; each segment's stand behind its time
        tag, and a segment with none is dropped. max_length: the context; the visual part is cut at
        its end so that it, the text and 16 spare tokens fit.
        """
        room = self.visual_room(query, max_length)
        before, after = self.text(query)
        tags, lengths = self.tags(centres, len(allocation.kept))
        visual = sum(k + tag for k, tag in zip(allocation.kept, lengths, strict=True) if k)

        def on_device(numbers: list[int]) -> torch.Tensor:
            return upload(torch.tensor(numbers, dtype=torch.long), tokens.device)

        return ops.assemble(
            self.model.language_model.embed_tokens,
            on_device(before),
            on_device(after),
            on_device(tags),
            on_device([0, *accumulate(lengths)]),
            allocation.counts,
            allocation.offsets,
            self.model.projector(tokens),
            length=len(before) + min(visual, room) + len(after),
            room=room,
        )
