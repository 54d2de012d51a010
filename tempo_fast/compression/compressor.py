"""The compressor: segments to keys and values once per video, then memory tokens once per question.

A segment's sequence is `[system | visual | query | memory tokens]` and attention is causal, so the
system part is made once per model, the visual part once per video, and the relevance, read at the
last token of the query, is known before any memory token exists.

Rows that lie on the device are asked in place. Rows in the host's memory, rows that were dropped,
and rows that a very long question would outgrow, are asked a chunk at a time in a cache of their
own, in one pass over query and memory tokens, and nothing of the question is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch

from tempo_fast.compression.allocation import Scored
from tempo_fast.compression.encoded import EncodedVideo
from tempo_fast.compression.encoder import Progress, SegmentEncoder, T, silent
from tempo_fast.compression.prompt import SegmentPrompt
from tempo_fast.engine import ops
from tempo_fast.engine.choices import fused_allocation
from tempo_fast.engine.chunks import in_chunks
from tempo_fast.engine.clock import Clock
from tempo_fast.engine.graphs import buffer
from tempo_fast.engine.kv_cache import KVCache, ranges
from tempo_fast.engine.memory import SHARE, cache_bytes
from tempo_fast.engine.streams import OneLane, upload
from tempo_fast.models.tempo import TempoModel
from tempo_kernels.packing import MAX_SEGMENTS

# What a question's adaptive allocation goes by: tokens, budget and min_tokens.
Rule = dict[str, int]


class Compressor(SegmentEncoder):
    """Encodes videos (see SegmentEncoder) and writes them into memory tokens, by a question."""

    def __init__(self, model: TempoModel, prompt: SegmentPrompt, **settings: bool) -> None:
        super().__init__(model, prompt, **settings)
        self.fused_allocation = fused_allocation()

    def holds(self, video: EncodedVideo, query: int) -> bool:
        """Whether every row can take a question of `query` tokens and stay where it is."""
        if not video.resident:
            return False
        needed, rows = self._length(video, query), len(video.plan.segments)
        grown = needed - video.cache.capacity
        free = self.meter.free() if grown > 0 else None
        if free is None:
            return True
        # While a layer grows it is held twice.
        tokens = rows * grown + rows * needed / self.decoder.config.layers
        count = cache_bytes(self.decoder.config, tokens, video.cache.dtype.itemsize)
        memory = video.memory
        return count + max(memory.activations, memory.language_model) <= SHARE * free

    def score(
        self,
        video: EncodedVideo,
        query: list[int],
        progress: Progress | None = None,
        rule: Rule | None = None,
    ) -> Scored:
        """Append a query to every segment and read the relevance at its last token.

        Only where the rows hold the query. rule: what the relevance will be allocated by, where it
        will; what comes with it is then the allocation if one launch can do both.
        """
        embeds, starts = self._query(query), self._starts(video)
        video.cache.reserve(self._length(video, len(query)))

        def work(rows: range) -> torch.Tensor:
            self._forget(video, rows)
            first, new = starts[rows.start : rows.stop], [len(query)] * len(rows)
            return self._append(video.cache, rows, first, embeds, new, "last")

        count = len(video.plan.segments)
        hidden = torch.cat(list(self._chunks(video, [len(query)] * count, "score", progress, work)))
        return self._scored(video, hidden, torch.arange(count, device=self.device), rule)

    def write(
        self,
        video: EncodedVideo,
        query: list[int],
        counts: Sequence[int],
        progress: Progress | None = None,
    ) -> torch.Tensor:
        """After `score` of the same query: the first counts[i] memory tokens of each segment.

        Returns them after the final norm, packed [Σ counts, D] in segment order.
        """
        memory, starts = self.model.memory_tokens, self._starts(video)

        def work(rows: range) -> torch.Tensor:
            self._forget(video, rows, keep=len(query))
            kept = [row for row in rows if counts[row]]
            if not kept:
                return memory[:0]
            first, new = [starts[row] + len(query) for row in kept], [counts[row] for row in kept]
            return self.decoder.norm(self._append(video.cache, kept, first, memory, new, "all"))

        written = self._chunks(video, [len(memory)] * len(counts), "write", progress, work)
        return torch.cat(list(written))

    def score_and_write(
        self,
        video: EncodedVideo,
        query: list[int],
        clock: Clock,
        progress: Progress | None = None,
        rule: Rule | None = None,
    ) -> tuple[Scored, torch.Tensor]:
        """Query and all memory tokens in one pass, wherever the rows are; rule as for `score`.

        Returns the relevance and the memory tokens [S, M, D] *before* the final norm, which is for
        those that will be kept.
        """
        embeds = torch.cat((self._query(query), self.model.memory_tokens))
        starts = self._starts(video)

        def ask(segments: range, cache: KVCache, rows: range) -> torch.Tensor:
            first = starts[segments.start : segments.stop]
            new = [len(embeds)] * len(rows)
            hidden = self._append(cache, rows, first, embeds, new, "all")
            # A copy, so that the query's other tokens are not kept with it.
            return hidden.unflatten(0, (len(rows), -1))[:, len(query) - 1 :].clone()

        if video.cache is None:
            plan, memory, room = video.plan, video.memory, len(embeds)
            _ = self.system  # before any thread begins
            with video.read(clock) as windows:
                lanes = OneLane(clock)
                encoded = self._encoded(plan, memory, windows, lanes, progress, ask, room=room)
                hidden = torch.cat(list(encoded))
        else:
            with clock("compress"):
                hidden = torch.cat(list(self._ask_rows(video, len(query), progress, ask)))
        with clock("compress"):
            segments, each = hidden.shape[:2]
            last = torch.arange(0, segments * each, each, device=self.device)
            return self._scored(video, hidden.flatten(0, 1), last, rule), hidden[:, 1:]

    def _ask_rows(
        self,
        video: EncodedVideo,
        query: int,
        progress: Progress | None,
        ask: Callable[[range, KVCache, range], torch.Tensor],
    ) -> Iterator[torch.Tensor]:
        """`ask` of all segments, in place where the rows hold the query, else in copies."""
        new = query + len(self.model.memory_tokens)
        lengths = video.visual_lengths

        def in_place(rows: range) -> torch.Tensor:
            self._forget(video, rows)
            return ask(rows, video.cache, rows)

        def copied(rows: range) -> torch.Tensor:
            self._forget(video, rows)
            copies = range(len(rows))
            cache = self.decoder.new_cache(len(rows), max(lengths) + new)
            cache.copy_rows(copies, video.cache, rows)
            return ask(rows, cache, copies)

        if self.holds(video, query):
            video.cache.reserve(self._length(video, query))
            return self._chunks(video, [new] * len(lengths), "write", progress, in_place)
        sizes = [max(length, new) for length in lengths]
        return self._chunks(video, sizes, "write", progress, copied)

    def _length(self, video: EncodedVideo, query: int) -> int:
        """Tokens of the longest row with a query and all memory tokens."""
        return max(video.visual_lengths) + query + len(self.model.memory_tokens)

    def _query(self, query: list[int]) -> torch.Tensor:
        """The embeddings [L, D] of a query's tokens."""
        return self.decoder.embed(upload(torch.tensor(query), self.device))

    def _starts(self, video: EncodedVideo) -> list[int]:
        """The position of a query's first token in each segment."""
        return [segment.next_position for segment in video.plan.segments]

    def _forget(self, video: EncodedVideo, rows: Sequence[int], keep: int = 0) -> None:
        """Drop what came behind the visual part, or behind `keep` tokens after it."""
        lengths = video.visual_lengths
        video.cache.rewind([lengths[row] + keep for row in rows], rows)

    def _chunks(
        self,
        video: EncodedVideo,
        tokens: list[int],
        stage: str,
        progress: Progress | None,
        work: Callable[[range], T],
    ) -> Iterator[T]:
        """What `work` makes of each chunk of rows, in order."""
        report = progress or silent
        report(stage, 0, len(tokens))
        for rows, result in in_chunks(tokens, video.memory, self.meter, work, release=self.release):
            report(stage, rows.stop, len(tokens))
            yield result

    def _append(
        self,
        cache: KVCache,
        rows: Sequence[int],
        starts: Sequence[int],
        embeds: torch.Tensor,
        new: Sequence[int],
        outputs: str,
    ) -> torch.Tensor:
        """Extend rows[i] by the first new[i] of `embeds` [L, D], at the positions from starts[i].

        The host waits for nothing.
        """
        packing = cache.pack(rows, new)
        counts = torch.tensor(new)
        which = upload(ranges(torch.zeros_like(counts), counts), self.device)
        positions = upload(ranges(torch.tensor(starts), counts), self.device)
        return self.decoder.extend(
            embeds.index_select(0, which),
            positions.expand(3, -1),
            packing,
            cache,
            outputs=outputs,
        )

    def _scored(
        self, video: EncodedVideo, hidden: torch.Tensor, last: torch.Tensor, rule: Rule | None
    ) -> Scored:
        """From hidden states [T, D] and the index [S] of each query's end."""
        norm = self.decoder.norm
        scoring = (hidden, last, norm.weight, self.model.yes_minus_no, norm.eps)
        kernels = ops.uses_kernels(self.device) and len(last) <= MAX_SEGMENTS
        if rule is None or not (self.fused_allocation and kernels):
            return Scored(ops.relevance(*scoring))
        if video.done is None:
            video.done = buffer(1, dtype=torch.int32, device=self.device)
        relevance, *shares = ops.relevance_allocate(*scoring, video.done, **rule)
        return Scored(relevance, tuple(shares))
