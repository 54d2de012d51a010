"""Frames of a video file by torchcodec, where that is installed: on the CPU or by NVDEC."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from tempo_fast.errors import VideoError
from tempo_fast.options import OpenOptions
from tempo_fast.threads import usable_cores
from tempo_fast.video.frames import FrameSource
from tempo_fast.video.samples import choose_samples
from tempo_fast.video.scan import scan

# Decoded frames of one batch: these bytes, but always one. Two batches may be held at once.
_ROOM_BYTES = 80 << 20


class TorchcodecFile(FrameSource):
    """A video file that torchcodec decodes: the frames that `VideoFile` chooses.

    options.decoder: "torchcodec" on the CPU, "nvdec" on the current GPU, whose colours may differ
    by some levels from the CPU's. A file where torchcodec gives frames of other times is refused.
    """

    def __init__(self, path: Path, options: OpenOptions) -> None:
        self._path, self._name = path, options.decoder
        self._decoder_class = _decoder_class(options.decoder)
        self._device = _device(options.decoder)
        index = scan(path)
        if index.times is None:
            raise VideoError(
                f"{path} has no times to tell its frames apart; use decoder='pyav', which counts"
            )
        samples = choose_samples(index, options)
        self._stream = index.stream
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
        try:
            return self._decoder_class(
                self._path.resolve(),  # so that no part of a name is taken for a protocol
                stream_index=self._stream,
                dimension_order="NHWC",
                num_ffmpeg_threads=usable_cores(),
                device=self._device,
            )
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, ValueError) as error:
            raise self._failed(error) from error

    def _read(self, decoder, start: int, end: int) -> np.ndarray:
        """The samples [start, end): uint8 [n, H, W, 3]."""
        try:
            batch = decoder.get_frames_at(self._indices[start:end].tolist())
            frames = batch.data.cpu().numpy()
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, IndexError, ValueError) as error:
            raise self._failed(error) from error
        # It decodes on the CPU what the GPU can't, and says so only after a frame.
        if self._name == "nvdec" and decoder.cpu_fallback:
            raise VideoError(
                f"NVDEC can't decode {self._path}: {decoder.cpu_fallback}; use decoder='pyav'"
            )
        off = np.abs(batch.pts_seconds.cpu().numpy() - self._seconds[start:end]) > self._slack
        if off.any():
            at = start + int(off.argmax())
            raise VideoError(
                f"torchcodec gave another frame of {self._path} than the one at "
                f"{self._seconds[at]:.3f} s; use decoder='pyav'"
            )
        return frames

    def _failed(self, error: Exception) -> VideoError:
        return VideoError(
            f"{self._path} can't be read with decoder={self._name!r}: {_reason(error)}; "
            "decoder='pyav' may"
        )


def _decoder_class(name: str) -> type:
    try:
        from torchcodec.decoders import VideoDecoder
    # Without FFmpeg's libraries, or beside another torch, it raises a RuntimeError or OSError.
    except (ImportError, RuntimeError, OSError) as error:
        raise VideoError(
            f"decoder={name!r} needs torchcodec and the FFmpeg libraries that it loads: "
            f"{_reason(error)}"
        ) from error
    return VideoDecoder


def _device(name: str) -> str:
    """The device by its number: the frames are read in another thread, which has its own."""
    if name != "nvdec":
        return "cpu"
    if not torch.cuda.is_available():
        raise VideoError("decoder='nvdec' needs a GPU and the CUDA build of torch and torchcodec")
    return f"cuda:{torch.cuda.current_device()}"


def _reason(error: Exception) -> str:
    """The first line of what torchcodec says."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
