"""From a decoded frame to RGB."""

from __future__ import annotations

import av
import numpy as np
from av.video.reformatter import VideoReformatter


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
