"""Exact frames of a video file, with PyAV."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream

from tempo_fast.errors import VideoError
from tempo_fast.options import OpenOptions
from tempo_fast.video.frames import FrameSource
from tempo_fast.video.sampling import sample_indices
from tempo_fast.video.scan import open_video, scan


def pick(
    keyed: Iterable[tuple[int, av.VideoFrame]], wanted: Iterable[int]
) -> Iterator[av.VideoFrame]:
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


def to_pixels(frame: av.VideoFrame, size: tuple[int, int] | None = None) -> np.ndarray:
    """Convert to uint8 [H, W, 3] RGB, turned upright by the file's display matrix.

    size: the upright (height, width) to scale to, where a stream changes its size on the way.
    """
    turns = round(frame.rotation / 90) % 4
    height, width = size or (None, None)
    if turns % 2:
        height, width = width, height
    pixels = frame.to_ndarray(format="rgb24", width=width, height=height)
    return np.ascontiguousarray(np.rot90(pixels, turns))


def _packets_from(
    container: InputContainer, stream: VideoStream, keyframe: tuple[int, int]
) -> Iterator[av.Packet] | None:
    """Packets from exactly this keyframe (its pts and dts) on; None where seeking misses it."""
    pts, dts = keyframe
    # Matroska seeks by presentation time, others by decoding time.
    for time in keyframe:
        container.seek(time, stream=stream)
        packets = container.demux(stream)
        for packet in packets:
            if packet.pts == pts:
                return chain((packet,), packets)
            if packet.dts is not None and packet.dts > dts:
                break
    return None


class VideoFile(FrameSource):
    """A video file, decoded in order from the keyframe before the first wanted frame.

    Only wanted frames are converted to RGB, and decoding stops after the last of them.
    """

    def __init__(self, path: Path, options: OpenOptions) -> None:
        self._path = path
        self._index = scan(path)
        self._indices, real_fps = sample_indices(
            self._index.total,
            self._index.fps,
            video_fps=options.video_fps,
            max_frames=options.max_frames,
            min_frames=options.min_frames,
            clip=options.clip,
        )
        # Only a decoded frame knows which way up it is.
        with open_video(path) as (container, stream):
            first = next(container.decode(stream), None)
            if first is None:
                raise VideoError(f"{path} has no frame that can be decoded")
            height, width, _ = to_pixels(first).shape
        super().__init__(count=len(self._indices), height=height, width=width, real_fps=real_fps)

    def _frames(self) -> Iterator[np.ndarray]:
        if self._index.times is None:
            keyed, wanted = self._counted(), self._indices
        else:
            wanted = self._index.times[self._indices]
            keyed = self._timed_from(int(wanted[0]))
        read, last, pixels = 0, None, None
        try:
            for frame in pick(keyed, wanted.tolist()):
                if frame is not last:
                    last, pixels = frame, to_pixels(frame, (self.height, self.width))
                yield pixels
                read += 1
        except VideoError as error:
            raise self._damaged(read) from error
        finally:
            keyed.close()
        if read < self.count:
            raise self._damaged(read)

    def _damaged(self, read: int) -> VideoError:
        usable = self._indices[read - 1] + 1 if read else 0
        return VideoError(
            f"{self._path} is damaged: only the first {usable} of its {self._index.total} frames "
            "could be decoded; get a sound copy, or end clip= before the damage"
        )

    def _counted(self) -> Iterator[tuple[int, av.VideoFrame]]:
        with open_video(self._path) as (container, stream):
            stream.thread_type = "AUTO"
            yield from enumerate(container.decode(stream))

    def _timed_from(self, first: int) -> Iterator[tuple[int, av.VideoFrame]]:
        """Decoded frames with their times, from the keyframe at or before the time `first` on."""
        keyframes = self._index.keyframes
        at = int(np.searchsorted(keyframes[:, 0], first, side="right")) - 1
        with open_video(self._path) as (container, stream):
            stream.thread_type = "AUTO"
            keyframe = (int(keyframes[at, 0]), int(keyframes[at, 1])) if at > 0 else None
            packets = _packets_from(container, stream, keyframe) if keyframe else None
            if packets is not None:
                yield from _timed(packets, keyframe[0])
                return
        with open_video(self._path) as (container, stream):
            stream.thread_type = "AUTO"
            yield from _timed(container.demux(stream), int(self._index.times[0]))


def _timed(packets: Iterable[av.Packet], earliest: int) -> Iterator[tuple[int, av.VideoFrame]]:
    # Frames before their keyframe lean on ones that a seek has skipped.
    for packet in packets:
        for frame in packet.decode():
            if frame.pts is not None and frame.pts >= earliest:
                yield frame.pts, frame
