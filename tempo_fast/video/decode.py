"""Exact frames of a video file, with PyAV."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from tempo_fast.errors import DamageWarning, VideoError
from tempo_fast.options import OpenOptions
from tempo_fast.video.frames import FrameSource, Resize, as_it_is
from tempo_fast.video.parallel import in_order
from tempo_fast.video.plan import Run, plan
from tempo_fast.video.runs import RunReader, UnplannedError, open_runs
from tempo_fast.video.samples import choose_samples
from tempo_fast.video.scan import open_video, scan
from tempo_fast.video.workers import torch_in_one_thread, usable_cores

_MOST_WORKERS = 8
# After so many surprises the file isn't worth planning for.
_ATTEMPTS = 3
# Frames that may wait to be taken: these bytes as they are decoded, but always so many.
_ROOM_BYTES = 160 << 20
_LEAST_ROOM, _MOST_ROOM = 4, 64


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


def to_pixels(
    frame: av.VideoFrame,
    size: tuple[int, int] | None = None,
    reformatter: VideoReformatter | None = None,
) -> np.ndarray:
    """Convert to uint8 [H, W, 3] RGB, turned and mirrored as the file's display matrix says.

    size: the upright (height, width) to scale to, where a stream changes its size on the way.
    reformatter: to use for one frame after the other, which is quicker.
    """
    turned, mirrored, upside_down = _orientation(frame)
    height, width = size or (None, None)
    if turned:
        height, width = width, height
    converted = (reformatter or VideoReformatter()).reformat(
        frame, format="rgb24", width=width, height=height, threads=1
    )
    pixels = converted.to_ndarray()
    if turned:
        pixels = pixels.swapaxes(0, 1)
    if mirrored:
        pixels = pixels[:, ::-1]
    if upside_down:
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def _orientation(frame: av.VideoFrame) -> tuple[bool, bool, bool]:
    """To be done to show a frame: swap its axes, then left and right, then top and bottom.

    By its display matrix, which takes x and y to a·x + c·y and b·x + d·y; the nearest quarter turn.
    """
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return False, False, False
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].tolist()
    return (True, c < 0, b < 0) if abs(b) > abs(a) else (False, a < 0, d < 0)


class _ResizeError(Exception):
    """Carries what resizing raised past those who take it for damage of the file."""


def _packing_errors(resize: Resize) -> Resize:
    def packing(frame: np.ndarray) -> np.ndarray:
        try:
            return resize(frame)
        except Exception as error:
            raise _ResizeError from error

    return packing


def _unpacked(frames: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    with closing(frames):
        try:
            yield from frames
        except _ResizeError as error:
            raise error.__cause__ from None


class VideoFile(FrameSource):
    """A video file, of which no more is decoded than the wanted frames need.

    Stretches that hold no wanted frame are skipped, packets that nothing else refers to are
    dropped, and several stretches are decoded at once, each by a worker of its own. The frames are
    those of decoding everything in order, which is also what is done where the codec or the file
    doesn't let that be known beforehand. Only wanted frames are converted to RGB.
    """

    def __init__(self, path: Path, options: OpenOptions) -> None:
        self._path = path
        self._skip = options.on_error == "skip"
        with ThreadPoolExecutor(1, "tempo-fast-first") as beside:
            first = beside.submit(_any_frame, path)
            self._index = scan(path)
        samples = choose_samples(self._index, options)
        self._indices, self._wanted = samples.indices, samples.wanted
        # Only a decoded frame knows which way up it is.
        height, width, _ = to_pixels(first.result()).shape
        super().__init__(
            count=len(self._indices),
            height=height,
            width=width,
            real_fps=samples.real_fps,
            shift=samples.shift,
        )
        self._runs: list[Run] = []
        if self._index.packets is not None:
            times = np.unique(self._wanted)
            self._runs = plan(self._index.packets, times, paired=self._index.syntax.paired) or []

    def resized(self, resize: Resize) -> tuple[Iterator[np.ndarray], Resize]:
        # With fewer runs than cores, each worker's decoder has the others' cores.
        if len(self._runs) < max(2, self._workers()):
            return super().resized(resize)
        self._check_open()
        return self._timed(_unpacked(self._frames(_packing_errors(resize)))), as_it_is

    def _frames(self, resize: Resize = as_it_is) -> Iterator[np.ndarray]:
        read, runs = 0, self._runs
        for _ in range(_ATTEMPTS):
            if read == self.count or not runs:
                break
            with closing(self._planned(runs, resize)) as frames:
                try:
                    for pixels in frames:
                        yield pixels
                        read += 1
                    return
                except (UnplannedError, VideoError, av.FFmpegError):
                    # Only decoding everything tells what a sound decoder makes of this run.
                    ends = [self._samples_until(run) for run in runs]
            failed = int(np.searchsorted(ends, read, side="right"))
            for pixels in self._everything(read, ends[failed], resize):
                yield pixels
                read += 1
            runs = runs[failed + 1 :]
        for pixels in self._everything(read, self.count, resize):
            yield pixels
            read += 1

    def _samples_until(self, run: Run) -> int:
        """How many samples there are up to the end of a run."""
        return int(np.searchsorted(self._wanted, run.times[-1], side="right"))

    @staticmethod
    def _workers() -> int:
        """Decoders that work at once, where there are runs enough."""
        return min(_MOST_WORKERS, usable_cores())

    def _planned(self, runs: list[Run], resize: Resize = as_it_is) -> Iterator[np.ndarray]:
        """The samples of these runs, decoded and resized by several workers."""
        workers = min(self._workers(), len(runs))
        # With frame threads, damage is only noticed some packets later.
        threads = 1 if self._skip else max(1, usable_cores() // workers)
        index, size = self._index, (self.height, self.width)

        def convert(frame: av.VideoFrame, reformatter: VideoReformatter) -> np.ndarray:
            return resize(to_pixels(frame, size, reformatter))

        @contextmanager
        def reading() -> Iterator[RunReader]:
            torch_in_one_thread()
            with open_runs(self._path, index.packets, index.syntax, threads, self._skip) as reader:
                yield reader

        frames = in_order(
            runs,
            reading,
            lambda reader, run, stopped: reader.read(run, convert, stopped),
            workers=workers,
            # Resizing may make small frames larger.
            room=min(_MOST_ROOM, max(_LEAST_ROOM, _ROOM_BYTES // (3 * self.height * self.width))),
        )
        times, repeats = np.unique(self._wanted, return_counts=True)
        first = int(np.searchsorted(times, runs[0].times[0]))
        last, ahead, lost = None, 0, []
        with closing(frames):
            for time, pixels, count in zip(
                times[first:].tolist(), frames, repeats[first:].tolist(), strict=True
            ):
                if pixels is None:
                    lost.append(time)
                    if last is None:
                        ahead += count
                        continue
                else:
                    last, count, ahead = pixels, count + ahead, 0
                for _ in range(count):
                    yield last
        if last is None:
            raise self._damaged(int(np.searchsorted(self._wanted, runs[0].times[0])))
        if lost:
            self._warn(lost)

    def _everything(self, start: int, end: int, resize: Resize) -> Iterator[np.ndarray]:
        """The samples [start, end), decoding every frame from the file's start on."""
        keyed = _timed if self._index.times is not None else _counted
        reformatter, last, pixels, read = VideoReformatter(), None, None, start
        with closing(keyed(self._path, self._index.syntax.threaded)) as frames:
            try:
                for frame in pick(frames, self._wanted[start:end].tolist()):
                    if frame is not last:
                        last = frame
                        size = self.height, self.width
                        pixels = resize(to_pixels(frame, size, reformatter))
                    yield pixels
                    read += 1
            except VideoError as error:
                raise self._damaged(read) from error
        if read < end:
            raise self._damaged(read)

    def _warn(self, lost: list[int]) -> None:
        """Say which samples (their times) were replaced."""
        at = np.searchsorted(np.unique(self._wanted), lost)
        stretches = np.split(np.array(lost), np.flatnonzero(np.diff(at) > 1) + 1)
        seconds = self._index.seconds
        where = ", ".join(
            f"{seconds(int(s[0])):.2f} to {seconds(int(s[-1])):.2f} s" for s in stretches
        )
        warnings.warn(
            f"{self._path} is damaged: {len(lost)} of its sampled frames could not be decoded "
            f"({where}); the sampled frame before them takes their place",
            DamageWarning,
            stacklevel=2,
        )

    def _damaged(self, read: int) -> VideoError:
        usable = self._indices[read - 1] + 1 if read else 0
        return VideoError(
            f"{self._path} is damaged{self._where(read)}: only the first {usable} of its "
            f"{self._index.total} frames could be decoded; get a sound copy, leave the damage out "
            "with clip=, or go on with on_error='skip'"
        )

    def _where(self, read: int) -> str:
        """The seconds from the first sample that wasn't read until decoding can begin again."""
        packets = self._index.packets
        if packets is None or read >= self.count:
            return ""
        start = int(self._wanted[read])
        later = packets.times[packets.entries]
        later = later[later > start]
        end = int(later[0] if len(later) else self._index.times[-1])
        return f" from {self._index.seconds(start):.2f} to {self._index.seconds(end):.2f} s"


def _any_frame(path: Path) -> av.VideoFrame:
    """The first frame that can be decoded."""
    with open_video(path) as (container, stream):
        for packet in container.demux(stream):
            try:
                frames = packet.decode()
            except av.FFmpegError:
                continue  # damage is reported when its frames are wanted
            if frames:
                return frames[0]
    raise VideoError(f"{path} has no frame that can be decoded")


@contextmanager
def _decoding(path: Path, threaded: bool) -> Iterator[Iterator[av.VideoFrame]]:
    """All frames of a file, decoded in order."""
    with open_video(path) as (container, stream):
        stream.thread_type = "AUTO"
        if not threaded:
            stream.codec_context.thread_count = 1
        yield container.decode(stream)


def _counted(path: Path, threaded: bool) -> Iterator[tuple[int, av.VideoFrame]]:
    with _decoding(path, threaded) as frames:
        yield from enumerate(frames)


def _timed(path: Path, threaded: bool) -> Iterator[tuple[int, av.VideoFrame]]:
    with _decoding(path, threaded) as frames:
        for frame in frames:
            if frame.pts is not None:
                yield frame.pts, frame
