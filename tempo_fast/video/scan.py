"""Look through a video file's packets to learn which frames it has.

Nothing is decoded, unless times don't tell the frames apart: then they are counted by decoding all.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from tempo_fast.errors import VideoError
from tempo_fast.video.container import open_video
from tempo_fast.video.packets.codecs import syntax_of
from tempo_fast.video.packets.syntax import Syntax
from tempo_fast.video.plan import Packets, rising
from tempo_fast.video.sequential import every_frame

# A Matroska header states the length of the whole file; one that ends so much before was cut off.
_SLACK_SECONDS = 1.0
_OPEN_ENDED = ("mpegts", "mpeg")
_RESETTING = ("new_extradata", "palette")
# Some frames may be missing; a rate that is only told about is further off.
_SAME_RATE = 0.05
_LONGEST_FRAME = 600  # seconds


@dataclass(frozen=True)
class FrameIndex:
    """The frames of a file's stream.

    stream: its number. total: how many frames. fps: their mean rate, 0 where the file states none.
    times: int64 [total], their presentation times in units of time_base, rising; None where the
    file's times don't tell frames apart and frames are counted as they are decoded.
    packets, syntax: what decoding in runs needs; None where only decoding everything is exact.
    open_end: the time of the last packet, where a recording may just end in the middle of it.
    """

    stream: int
    total: int
    fps: float
    times: np.ndarray | None
    time_base: Fraction
    packets: Packets | None
    syntax: Syntax
    open_end: int | None = None

    def seconds(self, time: int) -> float:
        """A presentation time in seconds from the first frame."""
        return float((time - int(self.times[0])) * self.time_base)


def scan(path: Path) -> FrameIndex:
    """Index the frames of a video file. Raises VideoError when it is no video or was cut off."""
    with open_video(path) as (container, stream):
        kind, stated = container.format.name, stream.frames
        number, time_base = stream.index, stream.time_base
        fps = float(stream.average_rate or 0)
        # Matroska's header counts from 0, whenever its first frame is shown.
        whole = (container.duration or 0) / av.time_base
        start = (container.start_time or 0) / av.time_base
        states_length = kind.startswith("matroska")
        ends: defaultdict[int, int] = defaultdict(int)  # each stream's, in its own units
        shown, ordered, complete, last_dts = [], True, 0, None
        # Avi stores no presentation times, and FFmpeg's guesses are wrong for B-frames.
        untimed = kind == "avi"
        syntax = syntax_of(stream.codec_context.name, stream.codec_context.extradata)
        everything, entries = [], []
        # Streams that turn up late are more than PyAV can take, and only Matroska's tell something.
        for packet in container.demux() if states_length else container.demux(stream):
            time, decoding, of = packet.pts, packet.dts, packet.stream_index
            if states_length and time is not None:
                ends[of] = max(ends[of], time + (packet.duration or 0))
            if of != number or not packet.size:
                continue
            complete += not packet.is_corrupt
            if decoding is not None:
                ordered = ordered and (last_dts is None or decoding > last_dts)
                last_dts = decoding
            if _resets(packet):
                syntax.steady = False
            # Every packet is looked at, whatever else is known of it.
            data = memoryview(packet)
            entry = syntax.look(data, packet.is_keyframe)
            if entry and time is not None:
                entries.append((time, time if decoding is None else decoding, len(everything)))
            everything.append(time)
            if not packet.is_discard and syntax.shown(data):
                shown.append(time)
        lasts = (float(end * container.streams[of].time_base) for of, end in ends.items())
        read = max(lasts, default=0.0)
    if not shown:
        raise VideoError(f"{path} has no video frames in it")
    if kind.startswith("mov") and 0 < complete < stated:
        # Frames outside an edit list aren't there either, and that is no damage.
        complete = _count_without_edits(path)
    if (kind.startswith("mov") and complete < stated) or (
        untimed and complete < stated and complete < len(shown)
    ):
        raise VideoError(
            f"{path} is cut off: only {complete} of its {stated} frames could be read; get the "
            "whole file"
        )
    if states_length and whole - read > _SLACK_SECONDS:
        raise VideoError(
            f"{path} is cut off: only {len(shown)} of about {round((whole - start) * fps)} frames "
            f"({read - start:.1f} of {whole - start:.1f} s) could be read; get the whole file"
        )
    times = _all_different(shown) if not untimed and ordered else None
    if times is not None and not (kind.startswith("mov") and stated):
        fps = _mean_rate(times, time_base, fps)
    # What decoders leave out of other codecs' packets, only they know.
    counted = times is not None or (untimed and syntax.alone and complete == stated == len(shown))
    return FrameIndex(
        stream=number,
        total=len(shown) if counted else _count_by_decoding(path, syntax.threaded),
        fps=fps,
        times=None if times is None else np.sort(times),
        time_base=time_base,
        packets=_packets(everything, entries) if times is not None and syntax.steady else None,
        syntax=syntax,
        open_end=everything[-1] if kind in _OPEN_ENDED else None,
    )


def _resets(packet: av.Packet) -> bool:
    """Whether the container gives the decoder something that holds for later packets too."""
    try:
        for side in packet.iter_sidedata():
            if side.data_type in _RESETTING:
                return True
    except IndexError:  # a kind of data that PyAV doesn't know
        return True
    return False


def _mean_rate(times: np.ndarray, time_base: Fraction, stated: float) -> float:
    """Frames a second by their times, where these don't bear out what the container states.

    That may be a guess from the first frames, or what the encoder was told.
    """
    steps = np.diff(np.sort(times))
    steps = steps[steps <= _LONGEST_FRAME / time_base]  # more is a clock that was set
    gaps, ticks = len(steps), int(steps.sum())
    if not gaps:
        return stated
    expected = gaps / stated / time_base if stated else 0
    # Times are rounded to ticks.
    near = abs(expected - ticks) <= max(2, _SAME_RATE * ticks)
    return stated if near else float(gaps / (ticks * time_base))


def _all_different(times: list[int | None]) -> np.ndarray | None:
    """Times as int64 [N] in the same order; None where one is missing or comes twice."""
    if None in times:
        return None
    known = np.array(times, np.int64)
    return known if np.diff(np.sort(known)).all() else None


def _packets(times: list[int | None], entries: list[tuple[int, int, int]]) -> Packets | None:
    known = _all_different(times)
    if not entries or known is None:
        return None
    kept = rising(np.array(entries, np.int64))
    return Packets(times=known, entries=kept[:, 2], decoding_times=kept[:, 1])


def _count_without_edits(path: Path) -> int:
    with open_video(path, ignore_editlist="1") as (container, stream):
        return sum(1 for packet in container.demux(stream) if packet.size and not packet.is_corrupt)


def _count_by_decoding(path: Path, threaded: bool) -> int:
    return sum(1 for _ in every_frame(path, timed=False, threaded=threaded))
