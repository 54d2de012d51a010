"""Frames that are already pixels: arrays and `.npy` files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tempo_fast.errors import OptionError, VideoError
from tempo_fast.options import OpenOptions
from tempo_fast.video.frames import FrameSource
from tempo_fast.video.sampling import clip_range, sample_indices


def _check(pixels: np.ndarray, shape: str, what: str) -> None:
    if pixels.dtype != np.uint8:
        raise VideoError(f"{what} must hold uint8 values from 0 to 255; got {pixels.dtype}")
    if pixels.ndim != shape.count(",") + 1 or pixels.shape[-1] != 3:
        raise VideoError(f"{what} must have the shape {shape}; got {list(pixels.shape)}")
    if pixels.size == 0:
        raise VideoError(f"{what} is empty: its shape is {list(pixels.shape)}")


class _Indexed(FrameSource):
    """The frames `indices` of pixels, uint8 [total, H, W, 3]."""

    def __init__(
        self,
        pixels: np.ndarray,
        indices: np.ndarray,
        real_fps: float,
        is_image: bool = False,
    ) -> None:
        _, height, width, _ = pixels.shape
        super().__init__(
            count=len(indices), height=height, width=width, real_fps=real_fps, is_image=is_image
        )
        self._pixels: np.ndarray | None = pixels
        self._indices = indices

    def _frames(self) -> Iterator[np.ndarray]:
        pixels = self._pixels
        # A copy, so that no frame reaches into the caller's array or a file that is gone.
        yield from (np.array(pixels[index], order="C") for index in self._indices)

    def close(self) -> None:
        super().close()
        self._pixels = None


class ArrayImage(_Indexed):
    """One image, uint8 [H, W, 3]."""

    def __init__(self, pixels: np.ndarray) -> None:
        _check(pixels, "[H, W, 3]", "an image array")
        super().__init__(pixels[None], np.zeros(1, np.int64), real_fps=1.0, is_image=True)


class ArrayVideo(_Indexed):
    """Frames that are already sampled, uint8 [F, H, W, 3], at options.fps frames a second.

    All of them are used, or all within options.clip.
    """

    def __init__(self, pixels: np.ndarray, options: OpenOptions) -> None:
        _check(pixels, "[F, H, W, 3]", "an array of frames")
        if options.fps is None:
            raise OptionError(
                "an array of frames needs fps=, the frames a second that it was sampled at"
            )
        first, last = clip_range(len(pixels), options.fps, options.clip)
        super().__init__(pixels, np.arange(first, last + 1), real_fps=float(options.fps))

    def held(self) -> tuple[np.ndarray, np.ndarray]:
        """The array, and where in it the sampled frames are: int [count].

        Raises VideoError when the source was closed; what was given before stays.
        """
        self._check_open()
        return self._pixels, self._indices


class NpyVideo(_Indexed):
    """A `.npy` file, uint8 [total, H, W, 3]: mapped rather than read, and sampled like a video."""

    def __init__(self, path: Path, options: OpenOptions) -> None:
        try:
            pixels = np.load(path, mmap_mode="r", allow_pickle=False)
        except Exception as error:  # its header is parsed as Python, which fails in many ways
            raise VideoError(f"{path} is not a .npy file of plain numbers: {error!r}") from error
        if not isinstance(pixels, np.ndarray):
            raise VideoError(f"{path} is an archive of arrays; a .npy file holds a single one")
        _check(pixels, "[F, H, W, 3]", str(path))
        indices, real_fps = sample_indices(
            len(pixels),
            options.fps or options.video_fps,
            video_fps=options.video_fps,
            max_frames=options.max_frames,
            min_frames=options.min_frames,
            clip=options.clip,
        )
        super().__init__(pixels, indices, real_fps)
