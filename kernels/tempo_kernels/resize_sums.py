"""What both passes of a resizing share: the sum of a window, and the pixels between two passes.

By Pillow: integer sums with 22 fractional bits, from 2^21 on, shifted down and clamped to 0…255.
By float: float32 sums, tap after tap, each rounded once with its product, as torch's loops are
compiled for processors that can; kept in float32 between two passes; at the end clamped and rounded
to the nearest whole number, halves to even.

Source: Pillow's `Resample.c`; torch's `upsample_bicubic2d_aa`; weights: `resize_weights.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from tempo_kernels.language import tl, triton
from tempo_kernels.resize_weights import PRECISION_BITS

_HALF = tl.constexpr(1 << (PRECISION_BITS - 1))
_BITS = tl.constexpr(PRECISION_BITS)
# Added to and taken from a float32 below 2^22, it rounds to a whole number, halves to even.
_ROUNDER = tl.constexpr(12582912.0)


@triton.jit
def begin(shape: tl.constexpr, FLOAT: tl.constexpr):
    if FLOAT:
        return tl.full(shape, 0.0, tl.float32)
    else:
        return tl.full(shape, _HALF, tl.int32)


@triton.jit
def added(b_sum, b_value, b_weight, FLOAT: tl.constexpr):
    """The sum and one more tap."""
    if FLOAT:
        return tl.fma(b_value, b_weight, b_sum)
    else:
        return b_sum + b_value * b_weight


@triton.jit
def finish(b_sum, FLOAT: tl.constexpr, dtype: tl.constexpr):
    """The value of a sum: int32 or float32 0 to 255, or the float32 sum itself for float32."""
    if FLOAT and dtype == tl.float32:
        return b_sum
    elif FLOAT:
        return tl.minimum(tl.maximum(b_sum, 0.0), 255.0) + _ROUNDER - _ROUNDER
    else:
        return tl.minimum(tl.maximum(b_sum >> _BITS, 0), 255)


@dataclass(frozen=True)
class Pixels:
    """Frames between two passes: [F, H, W, 3], or [F, 3, H, W] where planar; uint8 or float32."""

    values: torch.Tensor
    planar: bool

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return tuple(self.values.shape[-2:] if self.planar else self.values.shape[1:3])

    def interleaved(self) -> torch.Tensor:
        """[F, H, W, 3], contiguous."""
        return self.values.permute(0, 2, 3, 1).contiguous() if self.planar else self.values
