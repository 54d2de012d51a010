"""Which decoded frames damage has reached."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import av
from av.video.frame import PictureType

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

    `come` and `end` give (time, frame) in order, None for a frame that damage has reached.
    forgiven: the time of a frame that may be patched up, since its file just ends in it. noticed:
    whether there has been damage.
    """

    def __init__(self, forgiven: int | None = None) -> None:
        self._forgiven = forgiven
        self._orders: dict[int, tuple[int, int]] = {}  # of packets whose frame hasn't come, by time
        self._order = -1
        self._latest = _NEVER  # the time of all packets so far
        self._since: int | None = None  # the number of the packet where damage began
        self._waiting: deque[_Waiting] = deque()
        self.noticed = False

    def give(self, time: int | None, keyframe: bool) -> None:
        """A packet is about to be decoded whose frame is shown at `time`, if it is at all."""
        self._order += 1
        if time is None:
            return
        self._orders[time] = self._order, self._latest
        self._latest = max(self._latest, time)

    def fail(self) -> None:
        """The packet that was given last couldn't be decoded."""
        self._begins(self._order)

    def _begins(self, order: int) -> None:
        self.noticed = True
        self._since = order if self._since is None else min(self._since, order)

    def come(self, frame: av.VideoFrame, *, patched: bool, keep: bool = True) -> Iterator[Keyed]:
        """A frame has come; what is known to be sound, or lost, by that.

        patched: the decoder says so. keep: whether the frame itself is of interest.
        """
        if frame.pts is None:  # of a packet that isn't shown
            return
        order, after = self._orders.pop(frame.pts, (self._order, _NEVER))
        since = self._since
        if patched and frame.pts != self._forgiven:
            self._begins(order)
        elif since is not None and frame.key_frame and order > since:
            self._since = None
        # Frames come in order, so what hasn't come by now never will: hidden ones, or lost ones.
        for time in sorted(time for time in self._orders if time < frame.pts):
            its_order, _ = self._orders.pop(time)
            if since is not None or self._since is not None:
                self._waiting.append(_Waiting(time, None, its_order, _NEVER))
        lost = self._since is not None and order >= self._since
        if self._since is not None:
            for waiting in self._waiting:
                if waiting.order >= self._since:
                    waiting.frame = None
        self._waiting.append(
            _Waiting(frame.pts, frame if keep and not lost else None, order, after)
        )
        while self._waiting and (
            self._waiting[0].after <= frame.pts or len(self._waiting) > _MOST_WAITING
        ):
            yield self._told()

    def end(self) -> Iterator[Keyed]:
        """What is left when no more frames come."""
        while self._waiting:
            yield self._told()
        if self._since is not None:
            yield from ((time, None) for time in sorted(self._orders))

    def _told(self) -> Keyed:
        waiting = self._waiting.popleft()
        return waiting.time, waiting.frame


class UntimedDamage(Damage):
    """Where times don't tell which frame is which packet's: frames go by the order they come in.

    B-frames wait for the next other frame, which they may lean on. What comes after a packet that
    failed is lost, though a few of these were decoded before it. Times are passed on as they are.
    """

    def __init__(self) -> None:
        super().__init__()
        self._keys_given = self._keys_come = 0
        self._keyframe = False  # whether the last packet was one

    def give(self, time: int | None, keyframe: bool) -> None:
        self._keyframe = keyframe
        self._keys_given += keyframe

    def fail(self) -> None:
        self._keys_given -= self._keyframe  # that one won't come
        self._begins(self._keys_given)
        self._waiting.append(_Waiting(None, None, 0, _NEVER))

    def come(self, frame: av.VideoFrame, *, patched: bool, keep: bool = True) -> Iterator[Keyed]:
        self._keys_come += bool(frame.key_frame)
        if patched:
            self._begins(self._keys_come)
            for waiting in self._waiting:
                waiting.frame = None
        elif self._since is not None and self._keys_come > self._since:
            self._since = None
        sound = self._since is None and keep
        self._waiting.append(_Waiting(frame.pts, frame if sound else None, 0, _NEVER))
        least = _MOST_WAITING if frame.pict_type == PictureType.B else 0
        while len(self._waiting) > least:
            yield self._told()
