"""The published resizing: three steps for the frames of a video, one for an image.

Every step starts from and ends in 8-bit values: fusing steps would change pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch

from tempo_fast.errors import VideoError
from tempo_fast.video.lines import resize_lines
from tempo_fast.video.rows import resize_planes

LONGEST_MULTIPLE = 16
MAX_RATIO = 200


@dataclass(frozen=True)
class Limits:
    """Sides are multiples of `factor`, the area lies within [least, most] pixels."""

    factor: int
    least: int
    most: float = math.inf


COARSE = Limits(factor=64, least=4 * 64**2)


@dataclass(frozen=True)
class FrameLimits:
    """What a checkpoint wants of a video frame's size; the defaults are the published ones.

    longest_side: pixels that the longer side is first brought down to. min_pixels, max_pixels:
    limits of the final area; where both can't be met, max_pixels is the stronger.
    """

    longest_side: int = 512
    min_pixels: int = 128 * 32**2
    max_pixels: int = 768 * 32**2

    @property
    def processor(self) -> Limits:
        """The limits of the last of the three steps."""
        return Limits(factor=32, least=self.min_pixels, most=self.max_pixels)


PUBLISHED = FrameLimits()


class Step(NamedTuple):
    """One resizing. by_pillow: Pillow's 8-bit bicubic; else torch's in float32, rounded."""

    height: int
    width: int
    by_pillow: bool


def check_ratio(height: int, width: int) -> None:
    """Raises VideoError when one side is more than 200 times the other."""
    if max(height, width) > MAX_RATIO * min(height, width):
        raise VideoError(
            f"a frame of {width}x{height} has an aspect ratio over {MAX_RATIO}; crop or pad it"
        )


def fit(height: int, width: int, limits: Limits) -> tuple[int, int]:
    """The nearest allowed (height, width): Qwen's smart resize, Python's rounding of halves."""
    factor = limits.factor
    rows = max(factor, round(height / factor) * factor)
    columns = max(factor, round(width / factor) * factor)
    if rows * columns > limits.most:
        beta = math.sqrt(height * width / limits.most)
        rows = max(factor, math.floor(height / beta / factor) * factor)
        columns = max(factor, math.floor(width / beta / factor) * factor)
    elif rows * columns < limits.least:
        beta = math.sqrt(limits.least / (height * width))
        rows = math.ceil(height * beta / factor) * factor
        columns = math.ceil(width * beta / factor) * factor
    return rows, columns


def _shorten(height: int, width: int, longest_side: int) -> tuple[int, int]:
    if max(height, width) <= longest_side:
        return height, width
    scale = longest_side / max(height, width)
    rows, columns = (
        max(LONGEST_MULTIPLE, int(round(side * scale / LONGEST_MULTIPLE) * LONGEST_MULTIPLE))
        for side in (height, width)
    )
    return rows, columns


@lru_cache(maxsize=256)
def plan_resize(height: int, width: int, limits: FrameLimits = PUBLISHED) -> tuple[Step, ...]:
    """The resizings that a video frame of this size goes through; sides in pixels.

    The last one's (height, width) is what the model sees, or the frame's own where there is none.
    Raises VideoError for an aspect ratio over 200.
    """
    check_ratio(height, width)
    steps, size = [], (height, width)
    for target, by_pillow in (
        (lambda rows, columns: _shorten(rows, columns, limits.longest_side), True),
        (lambda rows, columns: fit(rows, columns, COARSE), True),
        (lambda rows, columns: fit(rows, columns, limits.processor), False),
    ):
        wanted = target(*size)
        if wanted != size:
            steps.append(Step(*wanted, by_pillow))
            size = wanted
    return tuple(steps)


def _tensor(frame: np.ndarray) -> torch.Tensor:
    """Copied unless it is contiguous and, though nobody does so, could be written to."""
    return torch.from_numpy(np.require(frame, requirements="CW"))


def frame_size(height: int, width: int, limits: FrameLimits = PUBLISHED) -> tuple[int, int]:
    """(height, width) that `resize_frame` gives a video frame of this size."""
    steps = plan_resize(height, width, limits)
    return (steps[-1].height, steps[-1].width) if steps else (height, width)


def resize_frame(frame: np.ndarray, limits: FrameLimits = PUBLISHED) -> np.ndarray:
    """Resize a video frame, uint8 [H, W, 3], to uint8 [h, w, 3] by the steps of `plan_resize`.

    After the last of them its planes may follow one another in memory.
    """
    steps = plan_resize(*frame.shape[:2], limits)
    if not steps:
        return frame
    return resize_lines(_tensor(frame)[None], steps)[0].numpy()


def image_size(
    height: int, width: int, *, factor: int, min_pixels: int, max_pixels: int
) -> tuple[int, int]:
    """(height, width) that `resize_image` gives an image of this size."""
    check_ratio(height, width)
    return fit(height, width, Limits(factor, min_pixels, max_pixels))


def resize_image(image: np.ndarray, *, factor: int, min_pixels: int, max_pixels: int) -> np.ndarray:
    """Resize a single image, uint8 [H, W, 3], to uint8 [h, w, 3] as the image processor does.

    Resized, its planes may follow one another in memory.

    factor: of the sides. min_pixels, max_pixels: limits of the area, `shortest_edge` and
    `longest_edge` of the processor's configuration.
    Raises VideoError for an aspect ratio over 200.
    """
    wanted = image_size(
        *image.shape[:2], factor=factor, min_pixels=min_pixels, max_pixels=max_pixels
    )
    if wanted == image.shape[:2]:
        return image
    planes = resize_planes(_tensor(image).permute(2, 0, 1), *wanted)
    return planes.numpy().transpose(1, 2, 0)
