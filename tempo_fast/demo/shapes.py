"""Coloured shapes with smooth edges, painted onto a frame."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

COLOURS = {
    "red": (214, 40, 44),
    "green": (38, 166, 80),
    "blue": (28, 84, 214),
    "yellow": (244, 208, 40),
    "purple": (144, 62, 196),
    "orange": (242, 128, 24),
    "white": (242, 242, 242),
}
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
# Places of a shape within a pixel that are told apart, along either axis.
SUBPIXELS = 2


def _distance(shape: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Distance in radii from the edge of a shape of radius 1, negative inside."""
    if shape == "circle":
        return np.hypot(x, y) - 1
    if shape == "ring":
        return abs(np.hypot(x, y) - 0.74) - 0.26
    if shape == "square":
        return np.maximum(abs(x), abs(y)) - 0.86
    if shape == "cross":
        across, down = abs(x), abs(y)
        return np.maximum(np.minimum(across, down) - 0.3, np.maximum(across, down) - 0.95)
    if shape == "triangle":
        return np.maximum(y - 0.6, 0.87 * abs(x) - 0.5 * y - 0.55)
    if shape == "star":
        # The edge of a five-pointed star runs straight from a point (1) to a notch (0.42).
        turn = abs((np.arctan2(x, -y) / (2 * np.pi) * 5 + 0.5) % 1 - 0.5) * 2 * np.pi / 5
        point, notch = np.array((1.0, 0.0)), 0.42 * np.array((np.cos(np.pi / 5), np.sin(np.pi / 5)))
        along = notch - point
        normal = np.array((along[1], -along[0])) / np.hypot(*along)
        radius = np.hypot(x, y)
        return (radius * np.cos(turn) - 1) * normal[0] + radius * np.sin(turn) * normal[1]
    raise ValueError(f"no shape is called {shape!r}; there are {', '.join(SHAPES)}")


@lru_cache(maxsize=4096)
def _coverage(shape: str, radius: int, right: int, below: int) -> np.ndarray:
    """float32 [n, n, 1], 0…1: how much of each pixel the shape covers.

    radius: in quarters of a pixel. right, below: the centre's place behind the middle pixel's
    centre, in 1 / SUBPIXELS.
    """
    size = radius / 4
    reach = int(np.ceil(size)) + 1
    steps = np.arange(-reach, reach + 1, dtype=np.float32)
    x = (steps[None] - right / SUBPIXELS) / size
    y = (steps[:, None] - below / SUBPIXELS) / size
    covered = np.clip(0.5 - _distance(shape, x, y) * size, 0, 1)
    return covered.astype(np.float32)[..., None]


def paint(
    frame: np.ndarray,
    shape: str,
    colour: tuple[int, int, int],
    *,
    x: float,
    y: float,
    radius: float,
) -> None:
    """Paint a shape onto a uint8 frame [h, w, 3]; x, y, radius in pixels, what lies outside is cut.

    Raises ValueError for an unknown shape.
    """
    column, right = divmod(round(x * SUBPIXELS), SUBPIXELS)
    row, below = divmod(round(y * SUBPIXELS), SUBPIXELS)
    covered = _coverage(shape, max(4, round(radius * 4)), right, below)
    reach = len(covered) // 2
    top, left = max(0, row - reach), max(0, column - reach)
    bottom, end = min(frame.shape[0], row + reach + 1), min(frame.shape[1], column + reach + 1)
    if top >= bottom or left >= end:
        return
    covered = covered[top - row + reach : bottom - row + reach, left - column + reach :]
    covered = covered[:, : end - left]
    part = frame[top:bottom, left:end]
    blended = part + covered * (np.asarray(colour, np.float32) - part)
    frame[top:bottom, left:end] = np.rint(blended).astype(np.uint8)
