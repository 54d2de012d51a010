"""Bicubic resizing of frames: Pillow's in 8-bit integers, or torch's in float32.

    h[y, i] = Σ_t weights_x[t, i] · frame[y, starts_x[i] + t]
    out[j, i] = Σ_t weights_y[t, j] · h[starts_y[j] + t, i]

frames: uint8 [F, H, W, 3] → uint8 [F, height, width, 3]. By Pillow: integer sums, shifted down and
clamped to 8 bits after each pass: bit for bit what Pillow makes of 8-bit images. By float: both
passes float32; h is not rounded; at the end clamped and rounded once, halves to even: torch's
antialiased bicubic and `round`, whose code for the host adds the few products of an enlarging in
the same order, but for a shrinking several at once. Either way a pass that would keep a size is
left out (it would keep every value). The width comes first, as
in the published pixels; from version 13 on Pillow begins with a height that loses much more.

Kernels: `resize_rows.py` and `resize_columns.py`; weights: `resize_weights.py`.
Source: Pillow's `Resample.c`; torch's `upsample_bicubic2d_aa`.
"""

from __future__ import annotations

import torch

from tempo_kernels.launch import check, check_tensor
from tempo_kernels.resize_columns import along_columns
from tempo_kernels.resize_rows import along_rows
from tempo_kernels.resize_sums import Pixels
from tempo_kernels.resize_weights import PRECISION_BITS, windows_on


def check_frames(frames: torch.Tensor, *, planar: bool = False) -> None:
    """Raises ValueError unless frames are contiguous uint8 [F, H, W, 3] with at least a pixel.

    planar: they are [F, 3, H, W].
    """
    shape = (None, 3, None, None) if planar else (None, None, None, 3)
    check_tensor("frames", frames, shape=shape, dtypes=torch.uint8)
    check(frames.numel() > 0, f"frames is empty: its shape is {list(frames.shape)}")
    check_size(*frames.shape[1 + planar : 3 + planar])


def check_size(height: int, width: int) -> None:
    """Raises ValueError unless a kernel can count the bytes of a frame in 32 bits."""
    check(
        height > 0 and width > 0 and height * width <= 1 << 27,
        f"a frame of {width}x{height}: 1 to {1 << 27} pixels are needed",
    )


def resize_step(
    pixels: Pixels, height: int, width: int, by_pillow: bool, patches: torch.Tensor | None = None
) -> Pixels | None:
    """One resizing: its passes along rows and columns, each if it changes the size.

    patches: written in place of pixels, and None returned, if the last pass is along columns of
    planes.
    """
    columns, rows = pixels.size[0] != height, pixels.size[1] != width
    if rows:
        between = torch.float32 if columns and not by_pillow else torch.uint8
        check_size(pixels.size[0], width)
        pixels = along_rows(pixels, width, by_pillow, between)
    if not columns:
        return pixels
    return along_columns(pixels, height, by_pillow, patches if pixels.planar else None)


def _resize(frames: torch.Tensor, height: int, width: int, by_pillow: bool) -> torch.Tensor:
    check_frames(frames)
    check_size(height, width)
    resized = resize_step(Pixels(frames, planar=False), height, width, by_pillow)
    return resized.interleaved()


def resize_pillow(frames: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """uint8 [F, H, W, 3] to [F, height, width, 3], the very values of Pillow's bicubic.

    Frames that have the size already are returned as they are. Raises ValueError for another
    dtype, shape, strides or device, and for empty frames or ones over 2^27 pixels.
    """
    return _resize(frames, height, width, by_pillow=True)


def resize_float(frames: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """As `resize_pillow`, but in float32 as torch's antialiased bicubic, rounded once."""
    return _resize(frames, height, width, by_pillow=False)


def resize_pillow_ref(frames: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """`resize_pillow` in plain PyTorch: the same integers."""
    for axis, size in ((2, width), (1, height)):
        if frames.shape[axis] == size:
            continue
        windows = windows_on(frames.device, frames.shape[axis], size, True)
        shape = list(frames.shape)
        shape[axis] = size
        half = 1 << (PRECISION_BITS - 1)
        total = torch.full(shape, half, dtype=torch.int32, device=frames.device)
        for tap, weight in enumerate(windows.weights[: windows.taps]):
            values = frames.index_select(axis, windows.starts + tap).int()
            total.addcmul_(values, weight.view(-1, *(1,) * (3 - axis)))
        frames = (total >> PRECISION_BITS).clamp_(0, 255).to(torch.uint8)
    return frames


def resize_float_ref(frames: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """`resize_float` in plain PyTorch."""
    planes = frames.permute(0, 3, 1, 2).float()
    resized = torch.nn.functional.interpolate(
        planes, (height, width), mode="bicubic", antialias=True
    )
    return resized.clamp_(0, 255).round_().to(torch.uint8).permute(0, 2, 3, 1).contiguous()
