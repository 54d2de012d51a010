"""Segments in the making: filled by several threads in any order, taken by one in theirs."""

from __future__ import annotations

import threading
from collections import deque

import numpy as np
import torch


class Segment:
    """The frames of one window, uint8 [frames, h, w, 3], as they are filled in.

    frames: how many the window has; a last one is repeated where their number is odd.
    """

    def __init__(self, frames: int) -> None:
        self._frames = frames
        self._missing = frames
        self._lock = threading.Lock()
        self._buffer: np.ndarray | None = None
        self.error: BaseException | None = None

    @property
    def ready(self) -> bool:
        """Whether every frame is in, or one of them failed."""
        return self._missing == 0 or self.error is not None

    def fill(self, row: int, pixels: np.ndarray) -> None:
        """Copy in frame number `row`, uint8 [h, w, 3]; the first to come decides the size.

        It decides too whether channels or planes follow one another in memory. Those who resize a
        frame may be the file's decoders, who don't know where it goes: hence the copy.
        """
        with self._lock:
            if self._buffer is None:
                count, planes = self._frames + self._frames % 2, pixels.transpose(2, 0, 1)
                if planes.flags.c_contiguous:
                    buffer = np.empty((count, *planes.shape), np.uint8)
                    self._buffer = buffer.transpose(0, 2, 3, 1)
                else:
                    self._buffer = np.empty((count, *pixels.shape), np.uint8)
        self._buffer[row] = pixels
        if row == self._frames - 1 and self._frames % 2:
            self._buffer[row + 1] = pixels
        with self._lock:
            self._missing -= 1

    def fail(self, error: BaseException) -> None:
        with self._lock:
            self.error = self.error or error

    def tensor(self) -> torch.Tensor:
        """All frames of a segment that is ready; raises what a frame failed with."""
        if self.error is not None:
            raise self.error
        return torch.from_numpy(self._buffer)


class Handoff:
    """A bounded queue of segments with an end: producers open and fill, the consumer takes.

    depth: segments that may be open besides the one that the consumer waits for.
    """

    def __init__(self, depth: int) -> None:
        self._depth = depth
        self._segments: deque[Segment] = deque()
        self._changed = threading.Condition()
        self._stopped = self._failed = self._finished = False
        self._error: BaseException | None = None
        self.resize_seconds = 0.0

    @property
    def stopped(self) -> bool:
        """Whether nobody wants anything more, not even what was begun."""
        return self._stopped

    @property
    def over(self) -> bool:
        """Whether nothing more should be begun: nobody wants it, or a frame before it failed."""
        return self._stopped or self._failed

    def open(self, segment: Segment) -> bool:
        """Wait for room, then queue a segment to be filled; False when none is wanted."""
        with self._changed:
            self._changed.wait_for(lambda: self.over or len(self._segments) <= self._depth)
            if not self.over:
                self._segments.append(segment)
                self._changed.notify_all()  # where windows overlap it may be whole already
            return not self.over

    def spent(self, seconds: float) -> None:
        """Add to the time that was spent resizing."""
        with self._changed:
            self.resize_seconds += seconds

    def filled(self) -> None:
        """Say that a frame came in or failed."""
        with self._changed:
            self._changed.notify_all()

    def fail(self) -> None:
        """Say that nothing after the segments that have their frames will be of use."""
        with self._changed:
            self._failed = True
            self._changed.notify_all()

    def finish(self, error: BaseException | None) -> None:
        """Say that nothing more will be filled; `error` ends the segments that are whole."""
        with self._changed:
            self._finished, self._error = True, error
            self._changed.notify_all()

    def take(self) -> torch.Tensor | None:
        """The next segment, or None at the end; raises what ended it, after those before it."""
        with self._changed:
            self._changed.wait_for(lambda: self._ready() or self._finished or self._stopped)
            if self._ready() and not self._stopped:
                segment = self._segments.popleft()
                self._changed.notify_all()
                return segment.tensor()
            error, self._error = self._error, None
        if error is not None:
            raise error
        return None

    def stop(self) -> None:
        """Say that no more segments are wanted, and let go of those that there are."""
        with self._changed:
            self._stopped = True
            self._segments.clear()
            self._changed.notify_all()

    def _ready(self) -> bool:
        return bool(self._segments) and self._segments[0].ready
