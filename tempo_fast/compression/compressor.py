"""The compressor: segments to keys and values once per video, then memory tokens once per question.

A segment's sequence is `[system | visual | query | memory tokens]` and attention is causal, so the
system part is made once per model, the visual part once per video, and the relevance, read at the
last token of the query, is known before any memory token exists.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import cached_property

import torch

from tempo_fast.compression.plan import Segment, SegmentPlan
from tempo_fast.compression.prompt import SegmentPrompt
from tempo_fast.engine import ops
from tempo_fast.engine.clock import Clock
from tempo_fast.engine.kv_cache import KVCache
from tempo_fast.models.decoder import Deepstack
from tempo_fast.models.tempo import TempoModel

# Tokens that run at once. An accelerator wants enough to be busy; a CPU wants the activations to
# stay near its caches.
CHUNK_TOKENS, CPU_CHUNK_TOKENS = 8192, 2048
# Room kept after each visual part for a query, on top of the memory tokens; a longer one grows it.
QUERY_ROOM = 64

Progress = Callable[[str, int, int], None]


class EncodedVideo:
    """A video's segments as keys and values, before any question.

    cache: a row a segment, holding its system and visual parts. plan: what they are.
    """

    def __init__(self, plan: SegmentPlan, cache: KVCache) -> None:
        self.plan = plan
        self.cache = cache

    @cached_property
    def visual_lengths(self) -> list[int]:
        """Tokens in each row without any question."""
        return list(self.cache.lengths)

    @cached_property
    def next_positions(self) -> torch.Tensor:
        """int64 [S]: the position of a query's first token in each segment."""
        positions = [segment.next_position for segment in self.plan.segments]
        return torch.tensor(positions, device=self.cache.device)


class Compressor:
    """Vision encoder and compressor of a Tempo, with the prompt of a segment or of an image."""

    def __init__(self, model: TempoModel, prompt: SegmentPrompt) -> None:
        self.model = model
        self.prompt = prompt
        self.decoder = model.compressor
        self.device = model.memory_tokens.device
        self.chunk_tokens = CPU_CHUNK_TOKENS if self.device.type == "cpu" else CHUNK_TOKENS

    @cached_property
    def system(self) -> KVCache:
        """The keys and values of the system part: one sequence, the start of every segment."""
        ids = torch.tensor(self.prompt.system, device=self.device)
        cache = self.decoder.new_cache(1, len(ids))
        positions = torch.arange(len(ids), device=self.device).expand(3, -1)
        packing = cache.pack([0], [len(ids)])
        self.decoder.extend(self.decoder.embed(ids), positions, packing, cache, outputs="none")
        return cache

    def encode(
        self,
        plan: SegmentPlan,
        windows: Iterable[torch.Tensor],
        clock: Clock,
        progress: Progress | None = None,
    ) -> EncodedVideo:
        """Run the vision encoder and the visual part of every segment, as its frames come in.

        windows: uint8 [frames, h, w, 3] of each segment in turn, an even number of frames, of the
        size that plan.resizing starts from.
        """
        count = len(plan.segments)
        room = len(self.model.memory_tokens) + QUERY_ROOM
        cache = self.decoder.new_cache(count, len(self.prompt.system) + plan.tokens + room)
        cache.copy_prefix(self.system, range(count))
        done = 0
        report = progress or _silent
        report("encode", 0, count)
        for chunk in _chunks(windows, plan.segments, self.chunk_tokens, report):
            rows = range(done, done + len(chunk))
            segments = [plan.segments[row] for row in rows]
            with clock("vision"):
                tokens, features = self._see(chunk, plan)
            with clock("compress"):
                self._prefill(rows, segments, tokens, features, cache)
            done += len(chunk)
            report("encode", done, count)
        return EncodedVideo(plan, cache)

    def _see(
        self, windows: list[torch.Tensor], plan: SegmentPlan
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Visual tokens [V, D] and deepstack features [V, D] of some segments' frames."""
        dtype = self.model.memory_tokens.dtype
        patches = [
            ops.preprocess(window.to(self.device), plan.resizing, dtype) for window in windows
        ]
        tokens, features = self.model.vision(torch.cat(patches), plan.grid)
        return tokens.flatten(0, 1), [feature.flatten(0, 1) for feature in features]

    def _prefill(
        self,
        rows: range,
        segments: list[Segment],
        tokens: torch.Tensor,
        features: list[torch.Tensor],
        cache: KVCache,
    ) -> None:
        """Append the visual parts of `segments` to their rows."""
        ids = torch.cat([segment.ids for segment in segments]).to(self.device)
        visual = torch.cat([segment.visual for segment in segments])
        positions = torch.cat([segment.positions for segment in segments], 1).to(self.device)
        index = visual.nonzero()[:, 0].to(self.device)
        hidden = self.decoder.embed(ids).index_copy_(0, index, tokens)
        self.decoder.extend(
            hidden,
            positions,
            cache.pack(rows, [len(segment.ids) for segment in segments]),
            cache,
            deepstack=Deepstack(index, features),
            outputs="none",
        )

    def score(
        self, video: EncodedVideo, query: list[int], progress: Progress | None = None
    ) -> torch.Tensor:
        """Append a query to every segment and read the relevance at its last token: float32 [S]."""
        embeds = self.decoder.embed(torch.tensor(query, device=self.device))
        hidden = [
            self._append(video, rows, [embeds] * len(rows), 0, "last")
            for rows in self._begin(video, len(query), len(query), "score", progress)
        ]
        return self._relevance(torch.cat(hidden))

    def write(
        self,
        video: EncodedVideo,
        query: list[int],
        counts: list[int],
        progress: Progress | None = None,
    ) -> torch.Tensor:
        """After `score` of the same query: the first counts[i] memory tokens of each segment.

        Returns them after the final norm, packed [Σ counts, D] in segment order.
        """
        memory = self.model.memory_tokens
        written = [memory[:0]]
        size = max(1, self.chunk_tokens // len(memory))
        for rows in _even_chunks(len(counts), size, "write", progress):
            kept = [row for row in rows if counts[row]]
            if kept:
                embeds = [memory[: counts[row]] for row in kept]
                hidden = self._append(video, kept, embeds, len(query), "all")
                written.append(self.decoder.norm(hidden))
        return torch.cat(written)

    def score_and_write(
        self, video: EncodedVideo, query: list[int], progress: Progress | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Query and all memory tokens in one pass.

        Returns the relevance float32 [S] and the memory tokens [S, M, D] *before* the final norm,
        which is for those that will be kept.
        """
        ids = torch.tensor(query, device=self.device)
        embeds = torch.cat((self.decoder.embed(ids), self.model.memory_tokens))
        scored, memory = [], []
        for rows in self._begin(video, len(query), len(embeds), "write", progress):
            hidden = self._append(video, rows, [embeds] * len(rows), 0, "all")
            hidden = hidden.unflatten(0, (len(rows), -1))[:, len(query) - 1 :]
            scored.append(hidden[:, 0])
            memory.append(hidden[:, 1:])
        return self._relevance(torch.cat(scored)), torch.cat(memory)

    def _begin(
        self, video: EncodedVideo, query: int, tokens: int, stage: str, progress: Progress | None
    ) -> Iterator[range]:
        """Forget the last question, make room for one of `query` tokens, go through the rows."""
        lengths = video.visual_lengths
        video.cache.rewind(lengths)
        video.cache.reserve(max(lengths) + query + len(self.model.memory_tokens))
        return _even_chunks(len(lengths), max(1, self.chunk_tokens // tokens), stage, progress)

    def _append(
        self,
        video: EncodedVideo,
        rows: range | list[int],
        embeds: list[torch.Tensor],
        after: int,
        outputs: str,
    ) -> torch.Tensor:
        """Extend rows by embeds, whose first token comes `after` tokens behind the visual part."""
        lengths = [len(part) for part in embeds]
        starts = video.next_positions[list(rows)] + after
        packing = video.cache.pack(rows, lengths)
        sizes = torch.tensor(lengths, device=self.device)
        within = torch.arange(packing.tokens, device=self.device)
        starts = starts - packing.cu_seqlens[:-1]
        positions = within + starts.repeat_interleave(sizes, output_size=packing.tokens)
        return self.decoder.extend(
            torch.cat(embeds), positions.expand(3, -1), packing, video.cache, outputs=outputs
        )

    def _relevance(self, hidden: torch.Tensor) -> torch.Tensor:
        """Relevance float32 [S] from the hidden states [S, D] of the last prompt tokens."""
        rows = torch.arange(len(hidden), device=self.device)
        norm = self.decoder.norm
        return ops.relevance(hidden, rows, norm.weight, self.model.yes_minus_no, norm.eps)


def _silent(stage: str, done: int, total: int) -> None:
    """A progress that tells nobody."""


def _chunks(
    windows: Iterable[torch.Tensor], segments: list[Segment], most: int, report: Progress
) -> Iterator[list[torch.Tensor]]:
    """Group the windows so that the visual parts of a group have at most `most` tokens."""
    chunk, tokens = [], 0
    report("decode", 0, len(segments))
    for i, (window, segment) in enumerate(zip(windows, segments, strict=True), 1):
        report("decode", i, len(segments))
        if chunk and tokens + len(segment.ids) > most:
            yield chunk
            chunk, tokens = [], 0
        chunk.append(window)
        tokens += len(segment.ids)
    if chunk:
        yield chunk


def _even_chunks(rows: int, size: int, stage: str, progress: Progress | None) -> Iterator[range]:
    """Rows 0…rows in ranges of `size`."""
    report = progress or _silent
    report(stage, 0, rows)
    for first in range(0, rows, size):
        chunk = range(first, min(first + size, rows))
        yield chunk
        report(stage, chunk.stop, rows)
