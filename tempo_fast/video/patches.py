"""Frames to the vision encoder's patches."""

from __future__ import annotations

import torch

from tempo_fast.errors import VideoError


def to_patches(
    frames: torch.Tensor,
    *,
    patch: int = 16,
    temporal_patch: int = 2,
    merge: int = 2,
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """Cut frames into normalised patches, in the order of Qwen's processor.

    frames: uint8 [n, h, w, 3] on any device; n a multiple of temporal_patch, h and w multiples of
    patch·merge. Returns dtype [n/temporal_patch, P, 3·temporal_patch·patch²] with
    P = (h/patch)(w/patch): patches by merge block (blocks in row order, each in row order), the
    values of one by channel, time, row and column, normalised to (x − 127.5)/127.5 in float32.
    Raises VideoError when the shape doesn't divide.
    """
    block = patch * merge
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != torch.uint8:
        raise VideoError(
            f"patches are cut from uint8 [n, h, w, 3]; got {frames.dtype} {list(frames.shape)}"
        )
    n, height, width, channels = frames.shape
    if n % temporal_patch or height % block or width % block:
        raise VideoError(
            f"{n} frames of {width}x{height} don't divide into patches of {temporal_patch} frames "
            f"and blocks of {block} pixels"
        )
    rows, columns, times = height // block, width // block, n // temporal_patch
    split = frames.view(
        times, temporal_patch, rows, merge, patch, columns, merge, patch, channels
    )  # [times, t, rows, mr, pr, columns, mc, pc, channels]
    ordered = split.permute(0, 2, 5, 3, 6, 8, 1, 4, 7)
    # Reordered while it is a byte a value: a quarter of the traffic.
    patches = ordered.reshape(times, rows * columns * merge**2, -1).to(torch.float32)
    return patches.sub_(127.5).div_(127.5).to(dtype)
