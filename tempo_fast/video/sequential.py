"""All frames of a video file, in order: what everything else is compared with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path

import av

from tempo_fast.video.container import open_video
from tempo_fast.video.damage import Damage, Keyed, UntimedDamage
from tempo_fast.video.frames import never


class _LateError(Exception):
    """There is damage; with frame threads nobody knows exactly where."""


def every_frame(
    path: Path,
    *,
    timed: bool,
    threaded: bool,
    forgiven: int | None = None,
    stopped: Callable[[], bool] = never,
) -> Iterator[Keyed]:
    """(time, frame) of each, None for one that damage has reached, in the order of being shown.

    timed: times tell the frames apart. threaded: let FFmpeg's frame threads help, as long as
    nothing fails. forgiven: as in `Damage`. Ends early once stopped(). Raises VideoError where the
    file can't be opened.
    """
    told = 0
    if threaded:
        try:
            for keyed in _decoded(path, timed, True, forgiven, stopped):
                yield keyed
                told += 1
            return
        except _LateError:
            pass  # all over again
    yield from islice(_decoded(path, timed, False, forgiven, stopped), told, None)


def _decoded(
    path: Path, timed: bool, threaded: bool, forgiven: int | None, stopped: Callable[[], bool]
) -> Iterator[Keyed]:
    damage = Damage(forgiven) if timed else UntimedDamage()
    with open_video(path) as (container, stream):
        stream.thread_type = "AUTO"
        if not threaded:
            stream.codec_context.thread_count = 1
        for packet in container.demux(stream):
            if stopped():
                return
            if packet.size:
                damage.give(packet.pts, packet.is_keyframe)
            try:
                frames = packet.decode()
            except av.FFmpegError as error:
                if threaded:
                    raise _LateError from error
                damage.fail()
                continue
            for frame in frames:
                # The flag may come too late where threads share the work, then again it may not.
                if frame.is_corrupt and threaded:
                    raise _LateError
                yield from damage.come(frame, patched=frame.is_corrupt)
        yield from damage.end()


def with_numbers(frames: Iterator[Keyed]) -> Iterator[Keyed]:
    """Those of `every_frame` with their numbers in the place of times."""
    with closing(frames):
        yield from ((number, frame) for number, (_, frame) in enumerate(frames))


def pick(keyed: Iterable[Keyed], wanted: Iterable[int]) -> Iterator[av.VideoFrame | None]:
    """Match decoded frames to wanted keys (times or numbers), both rising, wanted with repeats.

    A key that no frame has gets the frame on show at that moment: the last one before it, or the
    first one of all. Takes no frame more than it needs; ends early when the frames do.
    """
    frames = iter(keyed)
    shown, ahead = next(frames, None), None
    if shown is None:
        return
    for key in wanted:
        while shown[0] < key:
            ahead = ahead or next(frames, None)
            if ahead is None:
                return
            if ahead[0] > key:
                break
            shown, ahead = ahead, None
        yield shown[1]
