"""A video between its encoding and a question: its segments' keys and values, wherever they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager

import torch

from tempo_fast.checkpoint.config import TempoConfig
from tempo_fast.compression.plan import SegmentPlan
from tempo_fast.engine.clock import Clock
from tempo_fast.engine.kv_cache import KVCache
from tempo_fast.engine.memory import MemoryPlan, Work
from tempo_fast.language_model.steps import CACHE_STEP
from tempo_fast.models.decoder import Decoder
from tempo_fast.options import AskOptions
from tempo_fast.video.segments import SegmentFrames

# Room kept after each visual part for a query, on top of the memory tokens; a longer one grows it.
QUERY_ROOM = 64
# Tokens of a time tag, and of a prompt's text with its question, for a plan made before either.
TAG_TOKENS, TEXT_TOKENS = 16, 256

Read = Callable[[Clock], AbstractContextManager[Iterable[SegmentFrames]]]


class EncodedVideo:
    """A video's segments as keys and values, before any question.

    plan: what the segments are. memory: what was decided about them. cache: a row a segment, of its
    system and visual parts, on the device or on the host; None where they were dropped: then `read`
    gives the frames again, a window a segment.
    """

    def __init__(
        self,
        plan: SegmentPlan,
        memory: MemoryPlan,
        cache: KVCache | None,
        read: Read | None = None,
    ) -> None:
        self.plan = plan
        self.memory = memory
        self.cache = cache
        self.read = read
        # Tokens in each row without any question.
        self.visual_lengths = [] if cache is None else list(cache.lengths)
        # The counter of `relevance_allocate`, once it is asked for. Of the questions about a video
        # each comes when the allocation of the one before has been read.
        self.done: torch.Tensor | None = None

    @property
    def resident(self) -> bool:
        """Whether the rows are where a question can be appended to them."""
        return self.memory.placement == "device"


def empty_rows(
    decoder: Decoder, plan: SegmentPlan, system: KVCache, room: int, placement: str
) -> KVCache:
    """A row a segment without its visual part, where they stay between questions.

    placement: "device", with the system part already and room for a query and `room` tokens behind
    it; or "host".
    """
    count, length = len(plan.segments), system.lengths[0] + plan.tokens
    if placement == "device":
        cache = decoder.new_cache(count, length + room + QUERY_ROOM)
        cache.copy_prefix(system, range(count))
        return cache
    return KVCache(
        decoder.config,
        count,
        length,
        device=torch.device("cpu"),
        dtype=system.dtype,
        pinned=torch.cuda.is_available(),
    )


def memory_work(
    config: TempoConfig, plan: SegmentPlan, system: int, frame_bytes: int, asking: AskOptions
) -> Work:
    """What a video and a question of these options ask of the memory.

    system: tokens of the system part. frame_bytes: of a segment's frames as they are sent.
    """
    segments, memory = len(plan.segments), config.memory_tokens
    kept = segments * memory
    if config.dynamic_compress and plan.centres is not None and asking.strategy != "none":
        kept = min(kept, max(asking.visual_token_budget, segments))
    if asking.pruning or not asking.dynamic_compress:
        kept = segments * memory
    visual = max(int(segment.visual.sum()) for segment in plan.segments)
    prompt = kept + segments * TAG_TOKENS + TEXT_TOKENS
    return Work(
        segments=segments,
        visual=plan.tokens,
        system=system,
        room=memory + QUERY_ROOM,
        patches=visual * config.vision.merge**2,
        frame_bytes=frame_bytes,
        prompt=min(asking.tokenizer_model_max_length, prompt),
        new=min(asking.max_new_tokens, CACHE_STEP),
    )
