"""Pillow's own 8-bit bicubic, of frames whose pixels it can be lent.

    the width first, then the height, with an 8-bit result after each

which is how Pillow resized both until version 13, and how the published pixels came about. From 13
on it begins with the height where that loses much more than the width.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from PIL import Image

# Pillow 13 has no way left to take three channels whose pixels lie four bytes apart.
LENDS = hasattr(Image.new("RGB", (1, 1)).im, "setmode")


def bicubic(image: Image.Image, height: int, width: int) -> Image.Image:
    """An image at another size; itself where it has it."""
    for size in ((width, image.height), (width, height)):
        if size != image.size:
            image = image.resize(size, Image.Resampling.BICUBIC)
    return image


def resize_pixels(frame: np.ndarray, sizes: Iterable[tuple[int, int]]) -> np.ndarray:
    """uint8 [H, W, 3] resized to one (height, width) after the other."""
    image = _lent(frame) or Image.fromarray(np.ascontiguousarray(frame))
    for height, width in sizes:
        image = bicubic(image, height, width)
    return np.asarray(image)


def _lent(frame: np.ndarray) -> Image.Image | None:
    """An image in a frame's own memory, where its pixels lie four bytes apart as Pillow's do.

    It is for resizing: Pillow says that it has a fourth channel, which would be resized too.
    """
    if not LENDS:
        return None
    memory, (height, width, _), (row, pixel, value) = frame.base, frame.shape, frame.strides
    if (pixel, value) != (4, 1) or row < 4 * width or not isinstance(memory, np.ndarray):
        return None
    # Pillow checks that the memory is large enough, but takes it from its beginning on.
    if not memory.flags.c_contiguous or memory.ctypes.data != frame.ctypes.data:
        return None
    if memory.nbytes < height * row:
        return None
    image = Image.frombuffer("RGB", (width, height), memory, "raw", "RGBX", row, 1)
    image.im.setmode("RGB")
    return image
