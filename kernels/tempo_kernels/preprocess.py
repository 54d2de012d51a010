"""Frames as they were decoded to patches: the chain of resizings, then `patches.py`.

frames: uint8 [F, H, W, 3] → patches: float32 or bfloat16 [F/2, P, 1536]. Each step starts from and
ends in 8-bit values, as in the published code: fusing steps would change pixels. What is fused is
the last pass with normalising and cutting into patches, where that pass is along columns of planes.
A chain from 1080p is three launches: rows, columns, columns into patches.

Kernels and rounding: `resize.py` and `patches.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from tempo_kernels.launch import Variant
from tempo_kernels.patches import lies_in_planes, patches_for, to_patches, to_patches_ref
from tempo_kernels.resize import (
    check_frames,
    check_size,
    resize_float_ref,
    resize_pillow_ref,
    resize_step,
)
from tempo_kernels.resize_sums import Pixels

# (height, width, by Pillow rather than in float32)
Step = tuple[int, int, bool]


def preprocess(
    frames: torch.Tensor,
    steps: Sequence[Step],
    dtype: torch.dtype = torch.bfloat16,
    *,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """The patches [F/2, P, 1536] of uint8 frames [F, H, W, 3] after the steps, into `out` if given.

    frames: contiguous, or as planes in memory. steps: resizings in order, each (height, width,
    by_pillow); none leaves the frames as they are. Intermediate planes take up to 3·F·H·width
    bytes. The first call for a pair of sizes copies the weights to the device.

    Raises ValueError for another dtype, shape, strides or device, for an odd F, and for a last size
    that isn't a multiple of 32.
    """
    planar = lies_in_planes(frames) and not frames.is_contiguous()
    pixels = Pixels(frames.permute(0, 3, 1, 2) if planar else frames, planar)
    check_frames(pixels.values, planar=planar)
    steps = list(steps)
    for height, width, _ in steps:
        check_size(height, width)
    last = steps[-1][:2] if steps else frames.shape[1:3]
    patches = patches_for(len(frames), *last, dtype, frames, out)
    # A step that keeps the size does nothing, so the last one that does something ends the chain.
    sizes = [tuple(frames.shape[1:3]), *((height, width) for height, width, _ in steps)]
    steps = [step for before, step in zip(sizes, steps, strict=False) if before != step[:2]]
    for i, (height, width, by_pillow) in enumerate(steps):
        target = patches if i == len(steps) - 1 else None
        pixels = resize_step(pixels, height, width, by_pillow, target)
        if pixels is None:
            return patches
    return to_patches(pixels.values, dtype, planar=pixels.planar, out=patches)


def preprocess_ref(
    frames: torch.Tensor,
    steps: Sequence[Step],
    dtype: torch.dtype = torch.bfloat16,
    *,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """`preprocess` in plain PyTorch."""
    for height, width, by_pillow in steps:
        resize = resize_pillow_ref if by_pillow else resize_float_ref
        frames = resize(frames, height, width)
    return to_patches_ref(frames, dtype, out=out)


def variants() -> list[Variant]:
    """None of its own: it launches those of `resize_rows`, `resize_columns` and `patches`."""
    return []
