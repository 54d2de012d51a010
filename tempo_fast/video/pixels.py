"""From a decoded frame to RGB."""

from __future__ import annotations

from functools import lru_cache

import av
import numpy as np
from av.video.reformatter import VideoReformatter

# Only of these frames FFmpeg makes three bytes and four bytes a pixel by the same arithmetic.
_TWINS = ("yuv420p", "yuvj420p")
_TWIN_COLUMNS = 16
_TRIED_PIXELS = 1 << 20


def to_pixels(
    frame: av.VideoFrame,
    size: tuple[int, int] | None = None,
    reformatter: VideoReformatter | None = None,
    spaced: bool = False,
) -> np.ndarray:
    """Convert to uint8 [H, W, 3] RGB, turned and mirrored as the file's display matrix says.

    size: the upright (height, width) to scale to, where a stream changes its size on the way.
    reformatter: to use for one frame after the other, which is quicker. spaced: the pixels may lie
    four bytes apart, which spares Pillow a copy of them.
    """
    turned, mirrored, upside_down = _orientation(frame)
    height, width = size or (None, None)
    if turned:
        height, width = width, height
    reformatter = reformatter or VideoReformatter()
    same_place = not (turned or mirrored or upside_down)
    if spaced and same_place and size in (None, (frame.height, frame.width)) and _is_twin(frame):
        return _spaced(reformatter, frame)
    converted = reformatter.reformat(frame, format="rgb24", width=width, height=height, threads=1)
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


def _spaced(reformatter: VideoReformatter, frame: av.VideoFrame) -> np.ndarray:
    """RGB of a frame, four bytes from one pixel to the next."""
    plane = reformatter.reformat(frame, format="rgb0", threads=1).planes[0]
    rows = np.frombuffer(plane, np.uint8).reshape(frame.height, plane.line_size)
    return rows[:, : 4 * frame.width].reshape(frame.height, frame.width, 4)[:, :, :3]


def _is_twin(frame: av.VideoFrame) -> bool:
    """Whether `_spaced` gives just the colours of rgb24."""
    kind = frame.format.name
    if kind not in _TWINS or frame.width % _TWIN_COLUMNS:
        return False
    return _tried(kind, frame.width, int(frame.colorspace), int(frame.color_range))


@lru_cache(maxsize=64)
def _tried(kind: str, width: int, colorspace: int, color_range: int) -> bool:
    """Whether both conversions agree on noise: each processor has its own code for either."""
    height = -(-_TRIED_PIXELS // width) // 2 * 2 + 2
    noise = np.random.default_rng(0).integers(0, 256, (height // 2 * 3, width), np.uint8)
    frame = av.VideoFrame.from_ndarray(noise, format=kind)
    frame.colorspace, frame.color_range = colorspace, color_range
    reformatter = VideoReformatter()
    packed = reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray()
    return np.array_equal(packed, _spaced(reformatter, frame))
