"""What a question gets back: the answer, or the compressed video alone."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

import torch

STAGES = ("decode", "resize", "vision", "compress", "allocate", "prefill", "generate")


@dataclass(frozen=True)
class CompressedVideo:
    """A video as the language model reads it for one question.

    relevance: float32 [S], 0…1. allocations: int64 [S], memory tokens kept of each segment.
    tokens: [Σk, D], the kept memory tokens after the compressor's final norm, in segment order.
    inputs_embeds: [L, E], the language model's whole prompt. segments: [(start_s, end_s)].
    """

    relevance: torch.Tensor
    allocations: torch.Tensor
    tokens: torch.Tensor
    inputs_embeds: torch.Tensor
    segments: list[tuple[float, float]]


@dataclass(frozen=True)
class Answer:
    """The answer to one question and how it came about.

    text: decoded without special tokens, stripped. token_ids: as generated, the end token included.
    finish_reason: "stop" (end token or stop string) or "length" (max_new_tokens). relevance: 0…1 a
    segment. allocations: memory tokens kept of each segment, before the visual part is cut to the
    context. segments: [(start_s, end_s)] on the model's clock, which starts at 0 with the first
    frame of the video (or of the clip). prompt_tokens: what the language model read. timings:
    seconds by stage. decode, resize and vision are spent once per video, in threads that run beside
    each other, so they may add up to more than the time that passed, as may compress on a CPU,
    where threads work on segments beside each other; a later question on an open video has the
    first three at 0. memory: what was decided about memory (`MemoryPlan.decisions`): bytes of
    the weights and of the segments' keys and values, where these wait between questions, tokens
    that run at once, and how often that was halved because memory ran out.
    """

    text: str
    token_ids: list[int]
    finish_reason: str
    relevance: list[float]
    allocations: list[int]
    segments: list[tuple[float, float]]
    prompt_tokens: int
    timings: dict[str, float] = field(default_factory=dict)
    memory: dict[str, int | str] = field(default_factory=dict)

    def to_dict(self) -> dict:
        """The fields as plain JSON values."""
        return asdict(self)
