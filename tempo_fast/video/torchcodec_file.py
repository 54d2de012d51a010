"""Frames of a video file by torchcodec, where that is installed: on the CPU or by NVDEC."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tempo_fast.errors import OptionError, VideoError
from tempo_fast.options import OpenOptions
from tempo_fast.video.frames import FrameSource
from tempo_fast.video.samples import choose_samples
from tempo_fast.video.scan import scan
from tempo_fast.video.workers import usable_cores

# Decoded frames that are held at once: these bytes, but always one.
_ROOM_BYTES = 160 << 20
_DEVICES = {"torchcodec": "cpu", "nvdec": "cuda"}


class TorchcodecFile(FrameSource):
    """A video file that torchcodec decodes: the frames that `VideoFile` chooses.

    options.decoder: "torchcodec" on the CPU, "nvdec" on the current GPU, whose colours may differ
    by some levels from the CPU's. A file where torchcodec gives frames of other times is refused.
    """

    def __init__(self, path: Path, options: OpenOptions) -> None:
        if options.on_error != "raise":
            raise OptionError("on_error='skip' is what decoder='pyav' can do")
        self._path, self._name = path, options.decoder
        index = scan(path)
        if index.times is None:
            raise VideoError(
                f"{path} has no times to tell its frames apart; use decoder='pyav', which counts"
            )
        samples = choose_samples(index, options)
        self._indices = samples.indices
        self._seconds = samples.wanted * float(index.time_base)
        self._slack = float(index.time_base) / 2
        first = self._read(self._open(), 0, 1)[0]
        super().__init__(
            count=len(samples.indices),
            height=first.shape[0],
            width=first.shape[1],
            real_fps=samples.real_fps,
            shift=samples.shift,
        )

    def _frames(self) -> Iterator[np.ndarray]:
        decoder = self._open()
        step = max(1, _ROOM_BYTES // (3 * self.height * self.width))
        for start in range(0, self.count, step):
            yield from self._read(decoder, start, min(start + step, self.count))

    def _open(self):
        """A decoder of the file's own."""
        try:
            from torchcodec.decoders import VideoDecoder
        # Without FFmpeg's libraries, or beside another torch, it raises a RuntimeError or OSError.
        except (ImportError, RuntimeError, OSError) as error:
            reason = str(error).strip().splitlines()[0]
            raise VideoError(
                f"decoder={self._name!r} needs torchcodec and the FFmpeg libraries that it loads: "
                f"{reason}"
            ) from error
        try:
            return VideoDecoder(
                self._path,
                dimension_order="NHWC",
                num_ffmpeg_threads=usable_cores(),
                device=_DEVICES[self._name],
            )
        except (RuntimeError, ValueError) as error:
            raise self._failed(error) from error

    def _read(self, decoder, start: int, end: int) -> np.ndarray:
        """The samples [start, end): uint8 [n, H, W, 3]."""
        try:
            batch = decoder.get_frames_at(self._indices[start:end].tolist())
            # It decodes on the CPU, and says so only here, what the GPU can't.
            if self._name == "nvdec" and decoder.cpu_fallback:
                raise VideoError(
                    f"NVDEC can't decode {self._path}: {decoder.cpu_fallback}; use decoder='pyav'"
                )
            frames = batch.data.cpu().numpy()
        except (RuntimeError, IndexError, ValueError) as error:
            raise self._failed(error) from error
        off = np.abs(batch.pts_seconds.cpu().numpy() - self._seconds[start:end]) > self._slack
        if off.any():
            at = start + int(off.argmax())
            raise VideoError(
                f"torchcodec gave another frame of {self._path} than the one at "
                f"{self._seconds[at]:.3f} s; use decoder='pyav'"
            )
        return frames

    def _failed(self, error: Exception) -> VideoError:
        reason = str(error).strip().splitlines()[0]
        return VideoError(
            f"{self._path} can't be read with decoder={self._name!r}: {reason}; decoder='pyav' may"
        )
