"""What every kind of video gives: its sampled frames, one at a time."""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from time import perf_counter
from traceback import clear_frames
from typing import Any

import numpy as np

from tempo_fast.errors import VideoError

Resize = Callable[[np.ndarray], np.ndarray]


def as_it_is(frame: np.ndarray) -> np.ndarray:
    """A frame that nothing is done to."""
    return frame


def never() -> bool:
    """For those whom nobody stops."""
    return False


def let_go(error: BaseException | None) -> None:
    """Free what the functions that an error came through still hold, as long as it is kept.

    A decoder's threads end only when nothing refers to it any more.
    """
    while error is not None:
        clear_frames(error.__traceback__)
        error = error.__context__


class FrameSource(ABC):
    """The sampled frames of one video (or one image), read in order and one at a time.

    count: sampled frames (F). height, width: of the frames as they are yielded, in pixels.
    real_fps: sampled frames a second. is_image: a single still image, which the model reads
    without time. shift: the most seconds between a sample's moment and its frame. decode_seconds:
    time spent waiting for frames so far.

    A context manager; `close` may be called more than once, and from then on iterating raises
    VideoError. Each iteration starts again at the first frame.
    """

    def __init__(
        self,
        *,
        count: int,
        height: int,
        width: int,
        real_fps: float,
        is_image: bool = False,
        shift: float = 0.0,
    ) -> None:
        self.count = count
        self.height = height
        self.width = width
        self.real_fps = real_fps
        self.is_image = is_image
        self.shift = shift
        self.decode_seconds = 0.0
        self._closed = False
        self._on_close: list[weakref.finalize] = []

    @abstractmethod
    def _frames(self) -> Iterator[np.ndarray]:
        """A generator of the frames, as for `__iter__`; releases what it opened when it ends."""

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yield `count` arrays, uint8 [height, width, 3] RGB, in the order of the samples.

        They may be kept: none is written to again, though the same one may come several times.
        """
        self._check_open()
        return self._timed(self._frames())

    def resized(
        self, resize: Resize, stopped: Callable[[], bool] = never
    ) -> tuple[Iterator[np.ndarray], Resize]:
        """The frames in order, and what is left to be done to each.

        resize: what shall be done. A source whose threads have the frames at hand does it in them.
        stopped: whether nobody wants them any more; a source that takes its time over a frame asks
        and ends early.
        """
        return iter(self), resize

    def _check_open(self) -> None:
        if self._closed:
            raise VideoError("the video was closed; open it again to read its frames")

    def _timed(self, frames: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        try:
            while True:
                began = perf_counter()
                try:
                    frame = next(frames, None)
                except BaseException as error:
                    let_go(error)
                    raise
                finally:
                    self.decode_seconds += perf_counter() - began
                if frame is None:
                    return
                yield frame
        finally:
            frames.close()

    def on_close(self, action: Callable[..., Any], *arguments: Any) -> None:
        """Have `action` called once: by `close`, or when the source is no longer referred to."""
        self._on_close.append(weakref.finalize(self, action, *arguments))

    def close(self) -> None:
        """Give up the source."""
        self._closed = True
        for action in self._on_close:
            action()

    def __enter__(self) -> FrameSource:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
