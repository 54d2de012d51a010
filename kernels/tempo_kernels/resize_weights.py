"""Which input pixels make an output pixel of a bicubic resizing, and with which weights.

Both kinds filter with the cubic of a = −1/2, stretched by the scale s = in / out when it shrinks:

    weight(i, j) = cubic((j − centre_i + 1/2) / max(s, 1)),  centre_i = (i + 1/2) s,
    j from centre_i − 2 max(s, 1) to centre_i + 2 max(s, 1), normalised to a sum of 1

`pillow_windows` computes as Pillow does for 8-bit images: in double precision, then rounded to
multiples of 2^−22. `torch_windows` has the weights that `torch.nn.functional.interpolate` shows
(mode="bicubic", antialias=True, float32) when it is given zeros and ones: how they are rounded was
its compiler's choice. Both vectorised, on the host, once a pair of sizes.

Source: Keys 1981 (cubic convolution) with the antialiasing of Pillow's `Resample.c`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch.nn import functional

from tempo_kernels.launch import check

# Pillow: 32 bits less the 8 of a pixel and 2 for sign and overshoot.
PRECISION_BITS = 22
# A horizontal pass reads four taps at a time: twelve bytes of interleaved RGB are three words.
TAPS_MULTIPLE = 4


@dataclass(frozen=True)
class Windows:
    """Output i reads inputs starts[i] + t with weights[t, i] for t < taps; all of them exist.

    starts: int32 [out]. weights: int32 (Pillow's, times 2^22) or float32 [padded, out], where
    padded is taps rounded up to a multiple of 4 and the weights from `taps` on are 0.
    """

    starts: torch.Tensor
    weights: torch.Tensor
    taps: int


def _cubic_pillow(x: np.ndarray) -> np.ndarray:
    a = -0.5
    x = np.abs(x)
    near = ((a + 2.0) * x - (a + 3.0)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def _taps(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Input indices [taps, out] of the windows [low, high), and which of them are in theirs."""
    step = np.arange(int((high - low).max()))[:, None]
    return step + low, step < high - low


def _normalised(weights: np.ndarray) -> np.ndarray:
    # cumsum adds in order, as the sources' loops do; `sum` would add in pairs.
    total = weights.cumsum(0)[-1]
    return np.divide(weights, total, out=weights, where=total != 0)


def _packed(low: np.ndarray, weights: np.ndarray, size: int) -> Windows:
    """Windows of one length, moved back where they would reach over the end."""
    taps, out = weights.shape
    starts = np.minimum(low, size - taps)
    padded = np.zeros((-(-taps // TAPS_MULTIPLE) * TAPS_MULTIPLE, out), weights.dtype)
    # A tap that the move pushes beyond the window is one that lay outside its range, of weight 0.
    rows = np.arange(taps)[:, None] + (low - starts)
    inside = rows < taps
    padded[rows[inside], np.broadcast_to(np.arange(out), rows.shape)[inside]] = weights[inside]
    return Windows(torch.from_numpy(starts.astype(np.int32)), torch.from_numpy(padded), taps)


def _check_sizes(size: int, out: int) -> None:
    check(size > 0 and out > 0, f"resizing {size} pixels to {out}: at least 1 is needed")


@lru_cache(maxsize=256)
def pillow_windows(size: int, out: int) -> Windows:
    """The windows of Pillow's 8-bit bicubic from `size` to `out` pixels, on the CPU.

    Raises ValueError for a size below 1.
    """
    _check_sizes(size, out)
    scale = size / out
    stretch = max(scale, 1.0)
    support = 2.0 * stretch
    centre = (np.arange(out) + 0.5) * scale
    low = np.maximum((centre - support + 0.5).astype(np.int64), 0)
    high = np.minimum((centre + support + 0.5).astype(np.int64), size)
    index, inside = _taps(low, high)
    weights = _normalised(_cubic_pillow((index - centre + 0.5) * (1.0 / stretch)) * inside)
    # The conversion truncates, so this rounds halves away from zero, as Pillow does.
    fixed = (weights * (1 << PRECISION_BITS) + np.copysign(0.5, weights)).astype(np.int32)
    return _packed(low, fixed, size)


@lru_cache(maxsize=256)
def torch_windows(size: int, out: int) -> Windows:
    """The windows of torch's float32 antialiased bicubic from `size` to `out` pixels, on the CPU.

    Raises ValueError for a size below 1.
    """
    _check_sizes(size, out)
    # What lies so far apart is never seen by the same output, which tells the ones of a lane apart.
    reach = 2 * math.ceil(2 * max(size / out, 1.0)) + 4
    with torch.device("cpu"):
        lanes = torch.arange(reach).split(64)
        seen = np.concatenate([_shown(size, out, some, reach) for some in lanes])
    # Half of the reach to either side of its centre is all that an output sees.
    centre = (2 * np.arange(out) + 1) * size // (2 * out)
    index = centre + np.arange(1 - reach // 2, reach // 2 + 1)[:, None]
    weights = np.take_along_axis(seen, index % reach, 0)
    first = (weights != 0).argmax(0)
    taps = int((reach - (weights[::-1] != 0).argmax(0) - first).max())
    step = first + np.arange(taps)[:, None]
    inside = step < reach
    weights = np.take_along_axis(weights, np.where(inside, step, 0), 0)
    return _packed(index[0] + first, np.where(inside, weights, np.float32(0)), size)


def _shown(size: int, out: int, lanes: torch.Tensor, reach: int) -> np.ndarray:
    """float32 [lanes, out]: what torch makes of ones in every reach-th place, of each lane."""
    ones = (torch.arange(size) % reach == lanes[:, None]).float()[None, None]
    size = (len(lanes), out)
    return functional.interpolate(ones, size, mode="bicubic", antialias=True)[0, 0].numpy()


@lru_cache(maxsize=256)
def windows_on(device: torch.device, size: int, out: int, by_pillow: bool) -> Windows:
    """The windows of either kind on `device`: copied there once a pair of sizes, then kept.

    The first call for a pair copies from the host, which a graph being captured forbids.
    """
    windows = (pillow_windows if by_pillow else torch_windows)(size, out)
    return Windows(windows.starts.to(device), windows.weights.to(device), windows.taps)
