"""Decode, resize and cut into segments in the background, a bounded number ahead.

Frames in memory that whoever encodes them resizes are only cut, where they are.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from time import perf_counter

import numpy as np
import torch

from tempo_fast.errors import OptionError, VideoError
from tempo_fast.threads import torch_in_one_thread, usable_cores
from tempo_fast.video.arrays import ArrayVideo
from tempo_fast.video.frames import FrameSource, Resize, as_it_is
from tempo_fast.video.handoff import Handoff, Segment
from tempo_fast.video.resize import resize_frame


@dataclass(frozen=True)
class Window:
    """Segment `index`: the sampled frames [start, end)."""

    index: int
    start: int
    end: int


def windows(count: int, size: int, stride: int) -> list[Window]:
    """Cut `count` frames into windows of `size`, one every `stride` frames; the last may be short.

    Raises OptionError when size or stride is below 1.
    """
    if size < 1 or stride < 1:
        raise OptionError(f"windows need a size and a stride of at least 1; got {size}, {stride}")
    return [
        Window(index, start, min(start + size, count))
        for index, start in enumerate(range(0, count, stride))
    ]


MOST_WORKERS = 8  # each holds a frame, and they are faster than decoding long before
MOST_SEGMENTS = 4
MOST_WAITING = 256 * 1024**2

Places = list[tuple[Segment, int]]  # where a frame goes: a segment and a row of it


def depth_for(frames: int, height: int, width: int) -> int:
    """Segments of `frames` frames of this size that may wait without filling the memory."""
    return max(1, min(MOST_SEGMENTS, MOST_WAITING // (frames * height * width * 3)))


def _produce(
    source: FrameSource, cuts: list[Window], resize: Resize, workers: int, handoff: Handoff
) -> None:
    error = None
    try:
        with ThreadPoolExecutor(workers, "tempo-fast-resize", torch_in_one_thread) as pool:
            _cut(source, cuts, resize, pool, workers, handoff)
    except BaseException as caught:  # whatever it is, it belongs to the consumer's thread
        error = caught
    handoff.finish(error)


def _cut(
    source: FrameSource,
    cuts: list[Window],
    resize: Resize,
    pool: ThreadPoolExecutor,
    workers: int,
    handoff: Handoff,
) -> None:
    """Read the frames in order and hand each to the pool, with the places where it goes."""

    def timed(frame: np.ndarray) -> np.ndarray:
        began = perf_counter()
        pixels = resize(frame)
        handoff.spent(perf_counter() - began)
        return pixels

    def over() -> bool:
        return handoff.over

    # Frames between windows needn't be resized, and only here is known which those are.
    gaps = any(window.start > before.end for before, window in pairwise(cuts))
    if gaps:
        frames, left_to_do = source.resized(as_it_is, over)[0], timed
    else:
        frames, left_to_do = source.resized(timed, over)
    room = threading.Semaphore(workers + 1)  # frames being resized, and one that may wait
    coming = deque(cuts)
    unopened: deque[tuple[Segment, int]] = deque()  # and the first frame that only it needs
    filling: deque[tuple[Segment, Window]] = deque()
    needed = 0

    def place(frame: np.ndarray, places: Places) -> None:
        try:
            if not handoff.stopped:
                pixels = left_to_do(frame)
                for segment, row in places:
                    segment.fill(row, pixels)
        except BaseException as error:
            for segment, _ in places:
                segment.fail(error)
            handoff.fail()
        finally:
            room.release()
            handoff.filled()

    try:
        for at in range(cuts[-1].end):
            while coming and coming[0].start == at:
                window = coming.popleft()
                segment = Segment(window.end - window.start)
                filling.append((segment, window))
                unopened.append((segment, max(window.start, needed)))
                needed = window.end
            while filling and filling[0][1].end <= at:
                filling.popleft()
            while unopened and unopened[0][1] <= at:
                if not handoff.open(unopened.popleft()[0]):
                    return
            if handoff.over:
                return
            frame = next(frames, None)
            if frame is None and handoff.over:
                return
            if frame is None:
                raise VideoError(f"the video ended after {at} of {source.count} sampled frames")
            places = [(segment, at - window.start) for segment, window in filling]
            if places:
                room.acquire()
                pool.submit(place, frame, places)
        for segment, _ in unopened:
            if not handoff.open(segment):
                return
    finally:
        frames.close()


def _stop(handoff: Handoff, thread: threading.Thread) -> None:
    handoff.stop()
    # What nobody refers to any more may be let go in any thread, also in one of its own.
    if not threading.current_thread().name.startswith("tempo-fast-"):
        thread.join()


class SegmentReader:
    """The segments of a video, made in the background while earlier ones are worked on.

    source: sampled frames, read by one thread; the reader doesn't close it. size, stride: of the
    windows, in frames. resize: applied to each frame by `workers` threads (by default one a core,
    at most 8) or by those of the source, once also where windows overlap, and not at all to frames
    between windows; it must not depend on the order. depth: segments that may wait or be filled;
    beyond them one more is begun, and besides those there are at most workers + 2 frames in memory.

    Iterate once, over one uint8 tensor [frames, h, w, 3] a window, in order. An odd number of
    frames is made even by repeating the last one. An exception of the source or of `resize` is
    raised to the consumer, as it is, after the segments before it. The threads end with the
    iteration, with `close`, or when the reader is no longer referred to.
    """

    def __init__(
        self,
        source: FrameSource,
        size: int,
        stride: int,
        *,
        resize: Resize = resize_frame,
        depth: int = MOST_SEGMENTS,
        workers: int | None = None,
    ) -> None:
        for name, value in (("depth", depth), ("workers", workers)):
            if value is not None and value < 1:
                raise OptionError(f"{name} must be at least 1; got {value}")
        cuts = windows(source.count, size, stride)
        self._source = source
        self._handoff = Handoff(depth)
        # The thread must not refer to the reader, or the reader would never be let go.
        self._thread = threading.Thread(
            target=_produce,
            args=(
                source,
                cuts,
                resize,
                workers or min(usable_cores(), MOST_WORKERS),
                self._handoff,
            ),
            name="tempo-fast-segments",
            daemon=True,
        )
        self._finalizer = weakref.finalize(self, _stop, self._handoff, self._thread)
        self._thread.start()

    @property
    def decode_seconds(self) -> float:
        """Time spent waiting for frames, with the resizing that the source does; complete once the
        iteration has ended.
        """
        return self._source.decode_seconds

    @property
    def resize_seconds(self) -> float:
        """Time spent resizing, summed over the threads; complete once the iteration has ended."""
        return self._handoff.resize_seconds

    def __iter__(self) -> Iterator[torch.Tensor]:
        try:
            while (segment := self._handoff.take()) is not None:
                yield segment
        finally:
            self.close()

    def close(self) -> None:
        """Stop the threads, wait for them to end, and drop the segments that nobody took."""
        self._finalizer()

    def __enter__(self) -> SegmentReader:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class HeldWindow:
    """The frames of a segment where they are in memory; the last of an odd number counts twice.

    pixels: uint8 [total, H, W, 3], in any order of memory. places: of the frames in it.
    """

    def __init__(self, pixels: np.ndarray, places: np.ndarray) -> None:
        self._pixels = pixels
        self._places = np.append(places, places[-1:]) if len(places) % 2 else places

    def split(self, count: int) -> Iterator[torch.Tensor]:
        """`count` frames after the others, uint8 [count, H, W, 3], copied when they are taken."""
        for first in range(0, len(self._places), count):
            frames = self._pixels[self._places[first : first + count]]
            yield torch.from_numpy(np.ascontiguousarray(frames))


# What a segment's frames come as; `split` gives either's in parts.
SegmentFrames = torch.Tensor | HeldWindow


class HeldSegments:
    """As a `SegmentReader`, of frames in memory: no thread, nothing is copied or done ahead."""

    resize_seconds = 0.0

    def __init__(self, source: ArrayVideo, size: int, stride: int) -> None:
        pixels, places = source.held()
        cuts = windows(source.count, size, stride)
        self._windows = [HeldWindow(pixels, places[cut.start : cut.end]) for cut in cuts]

    def __iter__(self) -> Iterator[HeldWindow]:
        return iter(self._windows)

    def __enter__(self) -> HeldSegments:
        return self

    def __exit__(self, *exception: object) -> None:
        """There is nothing to stop."""
