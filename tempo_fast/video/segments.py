"""Decode, resize and cut into segments in the background, a bounded number ahead."""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from time import perf_counter

import numpy as np
import torch

from tempo_fast.errors import OptionError, VideoError
from tempo_fast.video.frames import FrameSource
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


class _Handoff:
    """A bounded queue with an end: the producer puts, the consumer takes, either may stop it."""

    def __init__(self, depth: int) -> None:
        self._depth = depth
        self._items: deque[torch.Tensor] = deque()
        self._changed = threading.Condition()
        self._stopped = self._finished = False
        self._error: BaseException | None = None
        self.resize_seconds = 0.0

    @property
    def stopped(self) -> bool:
        return self._stopped

    def put(self, item: torch.Tensor) -> bool:
        """Wait for room, then hand over; False when nobody wants more."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or len(self._items) < self._depth)
            if not self._stopped:
                self._items.append(item)
                self._changed.notify_all()
            return not self._stopped

    def finish(self, error: BaseException | None) -> None:
        with self._changed:
            self._finished, self._error = True, error
            self._changed.notify_all()

    def take(self) -> torch.Tensor | None:
        """The next item, or None at the end; raises what the producer raised, after its items."""
        with self._changed:
            self._changed.wait_for(lambda: self._items or self._finished or self._stopped)
            if self._items and not self._stopped:
                self._changed.notify_all()
                return self._items.popleft()
            error, self._error = self._error, None
        if error is not None:
            raise error
        return None

    def stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._items.clear()
            self._changed.notify_all()


def _produce(
    source: FrameSource,
    cuts: list[Window],
    resize: Callable[[np.ndarray], np.ndarray],
    handoff: _Handoff,
) -> None:
    error = None
    try:
        _cut(source, cuts, resize, handoff)
    except BaseException as caught:  # whatever it is, it belongs to the consumer's thread
        error = caught
    handoff.finish(error)


def _cut(
    source: FrameSource,
    cuts: list[Window],
    resize: Callable[[np.ndarray], np.ndarray],
    handoff: _Handoff,
) -> None:
    frames = iter(source)
    kept: deque[torch.Tensor] = deque()  # resized frames [first, at)
    first = at = 0
    try:
        for window in cuts:
            while kept and first < window.start:
                kept.popleft()
                first += 1
            while at < window.end:
                if handoff.stopped:
                    return
                frame = next(frames, None)
                if frame is None:
                    raise VideoError(f"the video ended after {at} of {source.count} sampled frames")
                if at >= window.start:
                    if not kept:
                        first = at
                    began = perf_counter()
                    kept.append(torch.from_numpy(np.array(resize(frame))))
                    handoff.resize_seconds += perf_counter() - began
                at += 1
            segment = list(kept)
            if len(segment) % 2:
                segment.append(segment[-1])
            if not handoff.put(torch.stack(segment)):
                return
    finally:
        frames.close()


def _stop(handoff: _Handoff, thread: threading.Thread) -> None:
    handoff.stop()
    if thread is not threading.current_thread():
        thread.join()


class SegmentReader:
    """The segments of a video, made by a background thread while earlier ones are worked on.

    source: sampled frames; the reader doesn't close it. size, stride: of the windows, in frames.
    resize: applied to each frame, once also where windows overlap, and not at all to frames between
    windows. depth: finished segments that may wait; beyond them the thread holds one window.

    Iterate once, over one uint8 tensor [frames, h, w, 3] a window, in order. An odd number of
    frames is made even by repeating the last one. An exception of the source or of `resize` is
    raised to the consumer, as it is, after the segments before it. The thread ends with the
    iteration, with `close`, or when the reader is no longer referred to.
    """

    def __init__(
        self,
        source: FrameSource,
        size: int,
        stride: int,
        *,
        resize: Callable[[np.ndarray], np.ndarray] = resize_frame,
        depth: int = 4,
    ) -> None:
        if depth < 1:
            raise OptionError(f"depth must be at least 1; got {depth}")
        cuts = windows(source.count, size, stride)
        self._source = source
        self._handoff = _Handoff(depth)
        # The thread must not refer to the reader, or the reader would never be let go.
        self._thread = threading.Thread(
            target=_produce,
            args=(source, cuts, resize, self._handoff),
            name="tempo-fast-segments",
            daemon=True,
        )
        self._finalizer = weakref.finalize(self, _stop, self._handoff, self._thread)
        self._thread.start()

    @property
    def decode_seconds(self) -> float:
        """Time that the source has spent decoding; complete once the iteration has ended."""
        return self._source.decode_seconds

    @property
    def resize_seconds(self) -> float:
        """Time spent resizing; complete once the iteration has ended."""
        return self._handoff.resize_seconds

    def __iter__(self) -> Iterator[torch.Tensor]:
        try:
            while (segment := self._handoff.take()) is not None:
                yield segment
        finally:
            self.close()

    def close(self) -> None:
        """Stop the thread, wait for it to end, and drop the segments that nobody took."""
        self._finalizer()

    def __enter__(self) -> SegmentReader:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
