"""The visual parts of equal segments through the compressor as one replay of a captured graph.

Every segment is padded to a bucket behind its last token, where causal attention lets no real token
see the padding; its keys and values stand behind the row's length, where nothing reads them. So a
graph knows only the number of segments, the bucket and the number of visual tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn.functional import pad

from tempo_fast.compression.plan import Segment
from tempo_fast.engine.graphs import Graphs, buffer
from tempo_fast.engine.kv_cache import KVCache
from tempo_fast.engine.streams import Turns, upload
from tempo_fast.models.decoder import Decoder, Deepstack

# Tokens that the length of a segment is rounded up to.
BUCKET = 64
# Graphs kept. A video of one size has one or two: of whole chunks, and of a last one.
MOST_GRAPHS = 4

Shape = tuple[int, int, int]


@dataclass
class _Chunk:
    """The buffers of a shape: what a replay reads, and the cache rows that it writes."""

    ids: torch.Tensor
    positions: torch.Tensor
    index: torch.Tensor
    tokens: torch.Tensor
    features: list[torch.Tensor]
    cache: KVCache
    replay: Callable[[], None] | None = None


class CapturedPrefill:
    """Captured graphs for chunks of segments, made when a shape comes the second time."""

    def __init__(self, decoder: Decoder, graphs: Graphs) -> None:
        self._decoder = decoder
        self._graphs = graphs
        self._seen: set[Shape] = set()
        self._chunks: dict[Shape, _Chunk] = {}
        self._turns = Turns(decoder.embed_tokens.device)

    @property
    def shapes(self) -> list[Shape]:
        """Segments, tokens of each after the system part, and visual ones, of each kept chunk."""
        return list(self._chunks)

    def release(self) -> bool:
        """Give all kept chunks up, as if no shape had come yet; whether there were any."""
        with self._turns:
            self._turns.wait()
            held = bool(self._chunks)
            self._chunks.clear()
            self._seen.clear()
        return held

    def prefill(
        self,
        rows: range,
        segments: list[Segment],
        tokens: torch.Tensor,
        features: list[torch.Tensor],
        cache: KVCache,
        system: KVCache,
    ) -> bool:
        """Put system and visual parts of the segments in their rows of a cache, if it's captured.

        tokens, features: [V, D], of the visual tokens of all segments. False, with nothing done,
        for segments that differ in visual tokens and for a shape that is new.
        """
        visual = {int(segment.visual.sum()) for segment in segments}
        if len(visual) > 1:
            return False
        longest = max(len(segment.ids) for segment in segments)
        shape = (len(segments), -(-longest // BUCKET) * BUCKET, *visual)
        # Until the rows are copied from the buffers.
        with self._turns:
            if shape not in self._seen:
                self._seen.add(shape)
                return False
            chunk = self._chunks.get(shape) or self._make(shape, len(features), system)
            self._fill(chunk, shape, segments, tokens, features)
            if chunk.replay is None:
                chunk.replay = self._capture(chunk, shape, system.lengths[0])
            self._chunks.pop(shape, None)
            while len(self._chunks) >= MOST_GRAPHS:
                self._turns.wait()
                del self._chunks[next(iter(self._chunks))]
            self._chunks[shape] = chunk  # the one used last is the last
            chunk.replay()
            lengths = [system.lengths[0] + len(segment.ids) for segment in segments]
            chunk.cache.lengths = lengths
            cache.copy_rows(rows, chunk.cache, range(len(segments)))
        return True

    def _make(self, shape: Shape, features: int, system: KVCache) -> _Chunk:
        count, bucket, visual = shape
        width, device, dtype = self._decoder.config.width, system.device, system.dtype

        def numbers(*size: int) -> torch.Tensor:
            return buffer(*size, dtype=torch.int64, device=device)

        def values() -> torch.Tensor:
            return buffer(count * visual, width, dtype=dtype, device=device)

        cache = self._decoder.new_cache(count, system.lengths[0] + bucket)
        cache.copy_prefix(system, range(count))
        return _Chunk(
            ids=numbers(count * bucket),
            positions=numbers(3, count * bucket),
            index=numbers(count * visual),
            tokens=values(),
            features=[values() for _ in range(features)],
            cache=cache,
        )

    def _fill(
        self,
        chunk: _Chunk,
        shape: Shape,
        segments: list[Segment],
        tokens: torch.Tensor,
        features: list[torch.Tensor],
    ) -> None:
        def padded(part: torch.Tensor) -> torch.Tensor:
            return pad(part, (0, shape[1] - part.shape[-1]))

        ids = torch.cat([padded(segment.ids) for segment in segments])
        positions = torch.cat([padded(segment.positions) for segment in segments], 1)
        visual = torch.cat([padded(segment.visual) for segment in segments])
        for mine, host in (
            (chunk.ids, ids),
            (chunk.positions, positions),
            (chunk.index, visual.nonzero()[:, 0]),
        ):
            mine.copy_(upload(host, mine.device))
        chunk.tokens.copy_(tokens)
        for mine, theirs in zip(chunk.features, features, strict=True):
            mine.copy_(theirs)

    def _capture(self, chunk: _Chunk, shape: Shape, past: int) -> Callable[[], None]:
        count, bucket, _ = shape
        cache, decoder = chunk.cache, self._decoder
        cache.lengths = [past] * count
        packing = cache.pack(range(count), (bucket,) * count)
        # Not the chunk, which will hold what is made of `run`: both would wait for a collection.
        ids, positions, index, tokens = chunk.ids, chunk.positions, chunk.index, chunk.tokens
        deepstack = Deepstack(index, chunk.features)

        def run() -> None:
            hidden = decoder.embed(ids).index_copy_(0, index, tokens)
            decoder.run(hidden, positions, packing, cache.keys, cache.values, deepstack, "none")

        return self._graphs.capture(run, lambda: None)
