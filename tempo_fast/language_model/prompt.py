"""The language model's prompt: time tags and projected memory tokens between two pieces of text."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from tempo_fast.compression.prompt import encode_as_text, time_tag
from tempo_fast.errors import OptionError
from tempo_fast.models.tempo import TempoModel

BEFORE = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
AFTER = "<|im_end|>\n<|im_start|>assistant\n"
# Tokens of the context that the published code leaves free beside text and visual part.
SPARE = 16


@dataclass(frozen=True)
class VisualPart:
    """What stands for the video in the prompt: ids int64 [L], of which those at `memory` [Σk] are
    places of memory tokens."""

    ids: torch.Tensor
    memory: torch.Tensor


class LanguagePrompt:
    """Writes prompts for the language model of a Tempo, with the tokenizer of its checkpoint."""

    def __init__(self, tokenizer, model: TempoModel) -> None:
        self.tokenizer = tokenizer
        self.model = model
        start, end = ("<im_start>", "<im_end>") if model.config.image_start_end else ("", "")
        self._before = self._encode(BEFORE + start)
        self._image_end = self._encode(end)
        self._after = self._encode(AFTER)

    def _encode(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False).input_ids

    def text(self, query: str) -> tuple[list[int], list[int]]:
        """Ids before and after the visual part. Text that looks like a special token is text."""
        after = self._image_end + encode_as_text(self.tokenizer, f"\n{query}") + self._after
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

    def visual_part(self, counts: list[int], centres: list[float] | None) -> VisualPart:
        """Lay out counts[i] memory tokens of each segment behind its time tag.

        centres: the moment of each segment in seconds; None (an image) writes no tags. A segment
        with no tokens is dropped.
        """
        ids: list[int] = []
        memory = []
        for i, count in enumerate(counts):
            if count:
                ids += self._encode(time_tag(centres[i])) if centres is not None else []
                memory.append(torch.arange(len(ids), len(ids) + count))
                ids += [0] * count
        empty = torch.zeros(0, dtype=torch.long)
        return VisualPart(torch.tensor(ids, dtype=torch.long), torch.cat([empty, *memory]))

    def assemble(
        self,
        query: str,
        tokens: torch.Tensor,
        counts: list[int],
        centres: list[float] | None,
        max_length: int,
    ) -> torch.Tensor:
        """The input embeddings [L, E] of a whole prompt.

        tokens: the kept memory tokens [Σ counts, D]. max_length: the context; the visual part is
        cut at its end so that it, the text and 16 spare tokens fit.
        """
        room = self.visual_room(query, max_length)
        decoder = self.model.language_model
        device = tokens.device
        part = self.visual_part(counts, centres)
        visual = decoder.embed(part.ids.to(device))
        visual.index_copy_(0, part.memory.to(device), self.model.projector(tokens))
        before, after = (
            decoder.embed(torch.tensor(ids, device=device)) for ids in self.text(query)
        )
        return torch.cat((before, visual[:room], after))
