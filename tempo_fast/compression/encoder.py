"""The once-per-video half: frames to the keys and values of every segment's visual part."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from typing import TypeVar

import torch

from tempo_fast.compression.captured import BUCKET, MOST_GRAPHS, CapturedPrefill
from tempo_fast.compression.encoded import EncodedVideo, empty_rows, memory_work
from tempo_fast.compression.plan import Segment, SegmentPlan
from tempo_fast.compression.prompt import SegmentPrompt
from tempo_fast.engine import ops
from tempo_fast.engine.chunks import in_chunks
from tempo_fast.engine.clock import Clock
from tempo_fast.engine.crew import crew_size, keep_on
from tempo_fast.engine.graphs import graphs_for
from tempo_fast.engine.kv_cache import KVCache
from tempo_fast.engine.memory import Captured, MemoryPlan, captured_bytes, plan_memory
from tempo_fast.engine.meter import is_out_of_memory, meter_of
from tempo_fast.engine.streams import LaneMaker, Lanes, upload
from tempo_fast.language_model.steps import MOST_GRAPHS as MOST_STEPS
from tempo_fast.models.decoder import Deepstack
from tempo_fast.models.tempo import TempoModel
from tempo_fast.options import AskOptions
from tempo_fast.video.lines import resize_lines
from tempo_fast.video.segments import SegmentFrames

# Tokens that run at once. An accelerator wants enough to be busy; a CPU wants the activations to
# stay near its caches.
CHUNK_TOKENS, CPU_CHUNK_TOKENS = 8192, 2560

Progress = Callable[[str, int, int], None]
T = TypeVar("T")
# Something to do with segments when they are encoded: (their numbers, a cache, their rows of it).
Use = Callable[[range, KVCache, range], T]


def default_chunk(device: torch.device) -> int:
    """Tokens that run at once where memory doesn't matter."""
    return CPU_CHUNK_TOKENS if device.type == "cpu" else CHUNK_TOKENS


class SegmentEncoder:
    """Vision encoder and compressor of a Tempo, with the prompt of a segment or of an image."""

    def __init__(
        self,
        model: TempoModel,
        prompt: SegmentPrompt,
        *,
        graphs: bool = False,
        streams: bool = False,
    ) -> None:
        self.model = model
        self.prompt = prompt
        self.decoder = model.compressor
        self.device = model.memory_tokens.device
        self.meter = meter_of(self.device)
        self.captured = CapturedPrefill(self.decoder, graphs_for(self.device)) if graphs else None
        self.lanes = LaneMaker(self.device, streams)
        self.chunk_tokens = default_chunk(self.device)
        self.by_pairs = self.device.type == "cpu"

    @cached_property
    def system(self) -> KVCache:
        """The keys and values of the system part: one sequence, the start of every segment."""
        ids = torch.tensor(self.prompt.system, device=self.device)
        cache = self.decoder.new_cache(1, len(ids))
        positions = torch.arange(len(ids), device=self.device).expand(3, -1)
        packing = cache.pack([0], [len(ids)])
        self.decoder.extend(self.decoder.embed(ids), positions, packing, cache, outputs="none")
        return cache

    def plan_memory(self, plan: SegmentPlan, frame_bytes: int, asking: AskOptions) -> MemoryPlan:
        """What encoding and asking need, and what is done where that is not free."""
        system = len(self.prompt.system)
        return plan_memory(
            self.model.config,
            memory_work(self.model.config, plan, system, frame_bytes, asking),
            self.meter,
            chunk_tokens=self.chunk_tokens,
            itemsize=self.model.memory_tokens.itemsize,
            weights=sum(tensor.nbytes for tensor in self.model.parameters()),
            in_flight=self.lanes.in_flight,
            threads=crew_size(self.device),
            captured=self._captured_memory(),
        )

    def _captured_memory(self) -> Captured | None:
        if self.captured is None:
            return None
        config, itemsize = self.model.config, self.model.memory_tokens.itemsize
        system = len(self.prompt.system)
        held = sum(
            captured_bytes(config, *shape, system=system, itemsize=itemsize)
            for shape in self.captured.shapes
        )
        return Captured(MOST_GRAPHS, BUCKET, held, MOST_STEPS)

    def release(self) -> bool:
        """Give back the memory that work can do without; whether captured chunks had some."""
        held = self.captured is not None and self.captured.release()
        self.meter.release()
        return held

    def new_rows(self, plan: SegmentPlan, memory: MemoryPlan) -> KVCache | None:
        """A row a segment, where memory.placement says; from where there is no room it moves on.

        None where the rows are dropped.
        """
        room = len(self.model.memory_tokens)
        while memory.placement != "dropped":
            try:
                return empty_rows(self.decoder, plan, self.system, room, memory.placement)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            # Now that the exception is gone, and with it the tensors of the attempt.
            if not self.release():
                memory.move_on()
        return None

    def encode(
        self,
        plan: SegmentPlan,
        memory: MemoryPlan,
        cache: KVCache,
        windows: Iterable[SegmentFrames],
        clock: Clock,
        progress: Progress | None = None,
    ) -> EncodedVideo:
        """Run the vision encoder and the visual part of every segment, as its frames come in.

        cache: of `new_rows`. windows: uint8 [frames, h, w, 3] of each segment in turn, an even
        number of frames, of the size that plan.resizing starts from; on a CPU they may be held
        elsewhere.
        """
        resident = memory.placement == "device"

        def keep(segments: range, encoded: KVCache, rows: range) -> None:
            if not resident:
                cache.copy_rows(segments, encoded, rows)

        into = cache if resident else None
        _ = self.system  # before any lane or thread begins
        with self.lanes(clock) as lanes:
            for _ in self._encoded(plan, memory, windows, lanes, progress, keep, into=into):
                pass
        return EncodedVideo(plan, memory, cache)

    def _encoded(
        self,
        plan: SegmentPlan,
        memory: MemoryPlan,
        windows: Iterable[SegmentFrames],
        lanes: Lanes,
        progress: Progress | None,
        use: Use[T],
        *,
        into: KVCache | None = None,
        room: int = 0,
    ) -> Iterator[T]:
        """Encode the segments chunk by chunk and yield what `use` makes of each chunk.

        into: a cache with a row a segment that begins with the system part; None makes one for each
        chunk, with room for `room` more tokens a row.
        """
        report = progress or silent
        count, system = len(plan.segments), len(self.prompt.system)
        coming, held = enumerate(windows), {}

        def take(rows: range) -> None:
            while rows[-1] not in held:
                row, held[row] = next(coming)
                report("decode", row + 1, count)

        def work(rows: range) -> T:
            prepare = self._prepare_pairs if self.by_pairs else self._prepare_chunk
            embedded = prepare([held[row] for row in rows], plan, lanes)
            with lanes.on("vision"):
                tokens, features = self._see(embedded(), plan.grid)
                seen = lanes.mark()
            with lanes.on("compress"):
                lanes.use(seen, tokens, *features)
                if into is not None:
                    cache, places = into, rows
                    cache.rewind([system] * len(rows), rows)
                else:
                    places = range(len(rows))
                    cache = self.decoder.new_cache(len(rows), system + plan.tokens + room)
                    cache.copy_prefix(self.system, places)
                segments = [plan.segments[row] for row in rows]
                self._prefill(places, segments, tokens, features, cache)
                result = use(rows, cache, places)
                lanes.end_chunk()
                return result

        report("decode", 0, count)
        report("encode", 0, count)
        sizes = [max(len(segment.ids), room) for segment in plan.segments]
        for rows, result in in_chunks(sizes, memory, self.meter, work, take, self.release):
            for row in rows:
                del held[row]
            report("encode", rows.stop, count)
            yield result

    def _prepare_chunk(
        self, windows: list[torch.Tensor], plan: SegmentPlan, lanes: Lanes
    ) -> Callable[[], torch.Tensor]:
        """What gives the vision lane some segments' embedded patches [frame pairs, P, width]."""
        with lanes.on("copy"):
            patches = self._patches(windows, plan, lanes)
            sent = lanes.mark()

        def embedded() -> torch.Tensor:
            lanes.use(sent, patches)
            return self._embed(patches)

        return embedded

    def _prepare_pairs(
        self, windows: list[SegmentFrames], plan: SegmentPlan, lanes: Lanes
    ) -> Callable[[], torch.Tensor]:
        """As `_prepare_chunk`, on a CPU, whose caches hold the patches of a pair, not of all."""
        pair, parts = self.model.config.vision.temporal_patch, []
        coming = (part for window in windows for part in window.split(pair))
        while True:
            keep_on()
            with lanes.clock("decode"):
                frames = next(coming, None)
            if frames is None:
                return lambda: torch.cat(parts)
            steps = plan.resizing
            if steps and not ops.uses_kernels(self.device):
                with lanes.clock("resize"):
                    frames, steps = resize_lines(frames, steps), ()
            with lanes.on("vision"):
                patches = ops.preprocess(frames, steps, self.model.memory_tokens.dtype)
                parts.append(self._embed(patches))

    def _patches(
        self, windows: list[torch.Tensor], plan: SegmentPlan, lanes: Lanes
    ) -> torch.Tensor:
        """Patches [frame pairs, P, pixels] of some segments' frames."""
        pairs = [len(window) // self.model.config.vision.temporal_patch for window in windows]
        patches = self.model.vision.new_patches(sum(pairs), plan.grid)
        for window, part in zip(windows, patches.split(pairs), strict=True):
            sent = lanes.send(window, self.device)
            ops.preprocess(sent, plan.resizing, patches.dtype, out=part)
        return patches

    def _embed(self, patches: torch.Tensor) -> torch.Tensor:
        return self.model.vision.embed(patches)

    def _see(
        self, embedded: torch.Tensor, grid: tuple[int, int]
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Visual tokens [V, D] and deepstack features [V, D] of some segments' patches."""
        tokens, features = self.model.vision.encode(embedded, grid)
        return tokens.flatten(0, 1), [feature.flatten(0, 1) for feature in features]

    def _prefill(
        self,
        rows: range,
        segments: list[Segment],
        tokens: torch.Tensor,
        features: list[torch.Tensor],
        cache: KVCache,
    ) -> None:
        """Append the visual parts of `segments` to their rows, which hold the system part."""
        captured = self.captured
        if captured and captured.prefill(rows, segments, tokens, features, cache, self.system):
            return
        ids = upload(torch.cat([segment.ids for segment in segments]), self.device)
        visual = torch.cat([segment.visual for segment in segments])
        positions = torch.cat([segment.positions for segment in segments], 1)
        index = upload(visual.nonzero()[:, 0], self.device)
        hidden = self.decoder.embed(ids).index_copy_(0, index, tokens)
        self.decoder.extend(
            hidden,
            upload(positions, self.device),
            cache.pack(rows, [len(segment.ids) for segment in segments]),
            cache,
            deepstack=Deepstack(index, features),
            outputs="none",
        )


def silent(stage: str, done: int, total: int) -> None:
    """A progress that tells nobody."""
