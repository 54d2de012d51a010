"""Resizing along one axis as sums of weighted rows of a table.

    out[i] = Σ_t weight[t, i] · in[start_i + t]

`embedding_bag`, which adds up weighted rows, is several times as fast as Pillow and as torch's
`interpolate`, which go from pixel to pixel. The weights come from `resize_weights`: torch's as they
are; Pillow's are integers, which are cut in two, so that float32 holds their sums exactly.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional

from tempo_kernels.resize_weights import (
    PRECISION_BITS,
    Windows,
    pillow_windows,
    torch_windows,
)

# Elsewhere `embedding_bag` is no vectorised code.
AVAILABLE = "fbgemm" in torch.backends.quantized.supported_engines
# Pillow's weights are cut in two: a sum of the lower parts is below 2^24 up to so many of them.
LOWER_BITS, MOST_TAPS = PRECISION_BITS // 2, 64


def resize_planes(planes: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """torch's own: float32 or uint8 [3, H, W] to [3, height, width]."""
    return functional.interpolate(planes[None], (height, width), mode="bicubic", antialias=True)[0]


def _sums(table: torch.Tensor, index: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return functional.embedding_bag(index, table, per_sample_weights=weight, mode="sum")


@dataclass(frozen=True)
class TorchRows:
    """The rows of a table float32 [rows, n] that are added up, and their weights.

    index: int32 [out, taps]. weight: float32 [out, taps].
    """

    index: torch.Tensor
    weight: torch.Tensor

    def of(self, table: torch.Tensor) -> torch.Tensor:
        """Float32 [out, n] of a table float32 [rows, n]."""
        return _sums(table, self.index, self.weight)


@dataclass(frozen=True)
class PillowRows:
    """The same of 8-bit values, with Pillow's weights in 22 bits: high / 2^11 + low / 2^22.

    index: int32 [out, taps]. high, low: float32 [out, taps], divided by 2^11.
    """

    index: torch.Tensor
    high: torch.Tensor
    low: torch.Tensor

    def of(self, table: torch.Tensor) -> torch.Tensor:
        """Float32 [out, n] in whole numbers 0…255 of a table float32 [rows, n] of such numbers."""
        # ⌊(high + low / 2^11) / 2^11 + 1/2⌋, where nothing is lost if low / 2^11 is cut off before.
        low = _sums(table, self.index, self.low).floor_()
        high = _sums(table, self.index, self.high)
        return high.add_(low, alpha=0.5**LOWER_BITS).add_(0.5).floor_().clamp_(0, 255)


Rows = TorchRows | PillowRows


def exact(size: int, out: int) -> bool:
    """Whether `pillow_rows` has few enough weights for a pixel."""
    return pillow_windows(size, out).taps <= MOST_TAPS


def pillow_rows(size: int, out: int, tables: int) -> PillowRows:
    """How Pillow makes `out` pixels of `size`, where that is `exact`, in some tables at once.

    tables: of `size` rows, one below the other.
    """
    windows = pillow_windows(size, out)
    weights = windows.weights[: windows.taps].t()
    high = weights + (1 << LOWER_BITS - 1) >> LOWER_BITS
    low = weights - (high << LOWER_BITS)
    parts = (part.contiguous().float() * 0.5**LOWER_BITS for part in (high, low))
    return PillowRows(*_below(size, tables, _index(windows), *parts))


def torch_rows(size: int, out: int, tables: int) -> TorchRows:
    """How torch makes `out` pixels of `size` in some tables at once.

    tables: of `size` rows, one below the other.
    """
    windows = torch_windows(size, out)
    weight = windows.weights[: windows.taps].t().contiguous()
    return TorchRows(*_below(size, tables, _index(windows), weight))


def _index(windows: Windows) -> torch.Tensor:
    return windows.starts[:, None] + torch.arange(windows.taps, dtype=torch.int32)


def _below(
    size: int, tables: int, index: torch.Tensor, *weights: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """The same for every table: its index, which is of the whole, and its weights."""
    places = size * torch.arange(tables, dtype=torch.int32)[:, None, None] + index
    return places.flatten(0, 1), *(weight.repeat(tables, 1) for weight in weights)
