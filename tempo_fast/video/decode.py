"""Exact frames of a video file, with PyAV."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from tempo_fast.errors import DamageWarning, VideoError
from tempo_fast.options import OpenOptions
from tempo_fast.threads import torch_in_one_thread, usable_cores
from tempo_fast.video.container import open_video
from tempo_fast.video.frames import FrameSource, Resize, as_it_is, never
from tempo_fast.video.parallel import in_order
from tempo_fast.video.pixels import to_pixels
from tempo_fast.video.plan import Run, plan
from tempo_fast.video.runs import RunReader, UnplannedError, open_runs
from tempo_fast.video.samples import choose_samples
from tempo_fast.video.scan import scan
from tempo_fast.video.sequential import every_frame, pick, with_numbers

_MOST_WORKERS = 8
# After so many surprises the file isn't worth planning for.
_ATTEMPTS = 3
# Frames that may wait to be taken: these bytes as they are decoded, but always so many.
_ROOM_BYTES = 160 << 20
_LEAST_ROOM, _MOST_ROOM = 4, 64


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
    """A video file, of which only what the wanted frames need is decoded, as far as packets tell.

    Stretches that hold no wanted frame are skipped, packets are dropped where the codec's syntax
    says that no wanted frame needs them (never of VP8, VP9 and MPEG-2), and several stretches are
    decoded at once, each by a worker of its own. The frames are those of decoding everything in
    order, which is also what is done where the codec or the file doesn't let that be known
    beforehand. Only wanted frames are converted to RGB.
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

    def resized(
        self, resize: Resize, stopped: Callable[[], bool] = never
    ) -> tuple[Iterator[np.ndarray], Resize]:
        self._check_open()
        # With fewer runs than cores, each worker's decoder has the others' cores.
        if len(self._runs) < max(2, self._workers()):
            return self._timed(self._frames(stopped=stopped)), resize
        return self._timed(_unpacked(self._frames(_packing_errors(resize), stopped))), as_it_is

    def _frames(
        self, resize: Resize = as_it_is, stopped: Callable[[], bool] = never
    ) -> Iterator[np.ndarray]:
        """The samples; with on_error="skip", others in the place of those that are lost."""
        last, ahead, lost = None, 0, []
        with closing(self._samples(resize, stopped)) as samples:
            for number, pixels in enumerate(samples):
                if pixels is not None:
                    yield from (pixels for _ in range(ahead))
                    last, ahead = pixels, 0
                elif not self._skip:
                    raise self._damaged(number)
                else:
                    lost.append(number)
                    if last is None:
                        ahead += 1
                        continue
                yield last
        if ahead and not stopped():
            raise self._damaged(0)
        if lost:
            self._warn(lost)

    def _samples(self, resize: Resize, stopped: Callable[[], bool]) -> Iterator[np.ndarray | None]:
        """The samples, None for one that is lost."""
        read, runs = 0, self._runs
        for _ in range(_ATTEMPTS):
            if read == self.count or not runs:
                break
            with closing(self._planned(runs, resize, stopped)) as samples:
                try:
                    for pixels in samples:
                        yield pixels
                        read += 1
                    return
                except (UnplannedError, VideoError, av.FFmpegError):
                    # Only decoding everything tells what a sound decoder makes of this run.
                    ends = [self._samples_until(run) for run in runs]
            failed = int(np.searchsorted(ends, read, side="right"))
            if failed == len(runs):  # after the last frame that was wanted
                return
            # With frame threads, damage isn't always noticed.
            for pixels in self._everything(read, ends[failed], resize, stopped, threaded=False):
                yield pixels
                read += 1
            runs = runs[failed + 1 :]
        yield from self._everything(read, self.count, resize, stopped, threaded=not self._skip)

    def _samples_until(self, run: Run) -> int:
        """How many samples there are up to the end of a run."""
        return int(np.searchsorted(self._wanted, run.times[-1], side="right"))

    @staticmethod
    def _workers() -> int:
        """Decoders that work at once, where there are runs enough."""
        return min(_MOST_WORKERS, usable_cores())

    def _planned(
        self, runs: list[Run], resize: Resize = as_it_is, stopped: Callable[[], bool] = never
    ) -> Iterator[np.ndarray | None]:
        """The samples of these runs, decoded and resized by several workers."""
        workers = min(self._workers(), len(runs))
        # With frame threads, damage is only noticed some packets later, or not at all.
        threads = 1 if self._skip else max(1, usable_cores() // workers)
        index, size = self._index, (self.height, self.width)

        def convert(frame: av.VideoFrame, reformatter: VideoReformatter) -> np.ndarray:
            return resize(to_pixels(frame, size, reformatter))

        @contextmanager
        def reading() -> Iterator[RunReader]:
            torch_in_one_thread()
            with open_runs(
                self._path, index.packets, index.syntax, threads, self._skip, index.open_end
            ) as reader:
                yield reader

        frames = in_order(
            runs,
            reading,
            lambda reader, run, ended: reader.read(run, convert, ended),
            workers=workers,
            # Resizing may make small frames larger.
            room=min(_MOST_ROOM, max(_LEAST_ROOM, _ROOM_BYTES // (3 * self.height * self.width))),
            stopped=stopped,
        )
        times, repeats = np.unique(self._wanted, return_counts=True)
        first = int(np.searchsorted(times, runs[0].times[0]))
        counts = repeats[first:].tolist()
        with closing(frames):
            for pixels, count in zip(frames, counts, strict=False):
                yield from (pixels for _ in range(count))
                first += 1
        if first < len(times) and not stopped():
            raise UnplannedError(f"the frame at {times[first]} didn't come")

    def _everything(
        self, start: int, end: int, resize: Resize, stopped: Callable[[], bool], *, threaded: bool
    ) -> Iterator[np.ndarray | None]:
        """The samples [start, end), decoding every frame from the file's start on."""
        timed = self._index.times is not None
        size, reformatter = (self.height, self.width), VideoReformatter()
        last, pixels, read = None, None, start
        frames = every_frame(
            self._path,
            timed=timed,
            threaded=threaded and self._index.syntax.threaded,
            forgiven=self._index.open_end,
            stopped=stopped,
        )
        with closing(frames if timed else with_numbers(frames)) as frames:
            for frame in pick(frames, self._wanted[start:end].tolist()):
                if frame is None:
                    pixels = None
                elif frame is not last:
                    pixels = resize(to_pixels(frame, size, reformatter))
                last = frame
                yield pixels
                read += 1
        if not stopped():
            yield from (None for _ in range(read, end))

    def _warn(self, lost: list[int]) -> None:
        """Say which samples (their numbers) were replaced."""
        frames, place = np.unique(self._indices, return_inverse=True)
        gone = np.unique(place[lost])
        stretches = np.split(gone, np.flatnonzero(np.diff(gone) > 1) + 1)
        where = ", ".join(
            f"{self._seconds(frames[stretch[0]]):.2f} to {self._seconds(frames[stretch[-1]]):.2f} s"
            for stretch in stretches
        )
        warnings.warn(
            f"{self._path} is damaged: {len(gone)} of its sampled frames could not be decoded "
            f"({where}); the last sound one before them (or the first after) takes their place",
            DamageWarning,
            stacklevel=2,
        )

    def _seconds(self, frame: int) -> float:
        """When a frame is shown, from the first one on."""
        times, fps = self._index.times, self._index.fps
        if times is None:
            return frame / fps if fps else 0.0
        return self._index.seconds(int(times[frame]))

    def _damaged(self, read: int) -> VideoError:
        usable = self._indices[read - 1] + 1 if read else 0
        return VideoError(
            f"{self._path} is damaged{self._where(read)}: only its samples up to frame {usable} of "
            f"{self._index.total} could be decoded; get a sound copy, leave the damage out with "
            "clip=, or go on with on_error='skip'"
        )

    def _where(self, read: int) -> str:
        """The seconds of the first sample that wasn't read, and where decoding can begin again."""
        start, packets = self._seconds(self._indices[read]), self._index.packets
        if packets is None:
            return f" at {start:.2f} s"
        later = packets.times[packets.entries]
        later = later[later > self._wanted[read]]
        end = int(later[0] if len(later) else self._index.times[-1])
        return f" from {start:.2f} to {self._index.seconds(end):.2f} s"


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
