"""Which decoded frames damage has reached."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import av

Keyed = tuple[int | None, av.VideoFrame | None]
_NEVER = -(1 << 63)
# No codec reorders more frames; where times start again, none would ever be late enough.
_MOST_WAITING = 16


@dataclass
class _Waiting:
    """A frame that isn't told yet. order: its packet's number. after: a time to wait for."""

    time: int | None
    frame: av.VideoFrame | None
    order: int
    after: int


class Damage:
    """Follows packets into a decoder and frames out of it; tells frames from where damage was.

    A decoder gives frames in the order in which they are shown, and says only then that it had to
    patch one up. What is shown before that one may have been made of it, so every frame waits until
    all that were decoded before it have come. From damage on, nothing that was decoded later is
    sound until a keyframe has come. Damage that a decoder doesn't notice isn't noticed here.

    `come` and `end` give (time, frame) in order, with None for a frame that damage has reached.
    """

    def __init__(self) -> None:
        self._orders: dict[int | None, tuple[int, int]] = {}
        self._order = -1
        self._latest = _NEVER  # the time of all packets so far
        self._last: int | None = None
        self._since: int | None = None  # the number of the packet where damage began
        self._waiting: deque[_Waiting] = deque()
        self._missing: list[int | None] = []

    def give(self, time: int | None) -> None:
        """A packet is about to be decoded whose frame is shown at `time`."""
        self._order += 1
        self._last = time
        self._orders[time] = self._order, self._latest
        if time is not None:
            self._latest = max(self._latest, time)

    def fail(self) -> None:
        """The packet that was given last couldn't be decoded."""
        self._begins(self._order)
        self._missing.append(self._last)

    def _begins(self, order: int) -> None:
        self._since = order if self._since is None else min(self._since, order)

    def come(self, frame: av.VideoFrame, *, patched: bool, keep: bool = True) -> Iterator[Keyed]:
        """A frame has come; what is known to be sound, or lost, by that.

        patched: the decoder says so. keep: whether the frame itself is of interest.
        """
        order, after = self._orders.pop(frame.pts, (self._order, _NEVER))
        since = self._since
        if patched:
            self._begins(order)
        elif since is not None and frame.key_frame and order > since:
            self._since = None
        lost = self._since is not None and order >= self._since
        if self._since is not None:
            for waiting in self._waiting:
                if waiting.order >= self._since:
                    waiting.frame = None
        self._waiting.append(
            _Waiting(frame.pts, frame if keep and not lost else None, order, after)
        )
        now = _NEVER if frame.pts is None else frame.pts
        while self._waiting and (
            self._waiting[0].after <= now or len(self._waiting) > _MOST_WAITING
        ):
            yield from self._told(self._waiting.popleft())

    def end(self) -> Iterator[Keyed]:
        """What is left when no more frames come."""
        while self._waiting:
            yield from self._told(self._waiting.popleft())
        for time in sorted(self._missing, key=lambda time: _NEVER if time is None else time):
            yield time, None

    def _told(self, waiting: _Waiting) -> Iterator[Keyed]:
        time = waiting.time
        # A decoder may still make something up for a packet that it complained about.
        if time in self._missing:
            self._missing.remove(time)
        for missing in sorted(m for m in self._missing if m is not None and time is not None):
            if missing < time:
                self._missing.remove(missing)
                yield missing, None
        yield time, waiting.frame
