"""The second pass of a resizing: along the columns.

    v[j, x] = Σ_t weights[t, j] · frame[starts[j] + t, x]

frame: uint8, interleaved [F, H, W, 3] or planar [F, 3, H, W], or float32 planes that the first pass
left → uint8 pixels laid out as before, or of planes normalised patches (`patches.py`) in their
place. Sums and rounding: `resize_sums.py`; the reference is that of both passes, in `resize.py`.
"""

from __future__ import annotations

import torch

from tempo_kernels.language import tl, triton
from tempo_kernels.launch import Variant
from tempo_kernels.patches import normalised, patch_offset
from tempo_kernels.resize_sums import Pixels, added, begin, finish
from tempo_kernels.resize_weights import windows_on

# 16 columns a thread, one 16-byte load of bytes a tap. 16 rows are a row of patches.
BLOCK_Y, BLOCK_X, WARPS = 16, 128, 4


@triton.jit
def _columns_kernel(
    planes,
    starts,
    weights,
    out,
    height,
    height_out,
    width,
    taps,
    FLOAT: tl.constexpr,
    PATCHES: tl.constexpr,
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,
):
    dtype: tl.constexpr = out.dtype.element_ty
    blocks_x = tl.cdiv(width, BLOCK_X)
    blocks_y = tl.cdiv(height_out, BLOCK_Y)
    i_x = tl.program_id(0) % blocks_x
    i_y = tl.program_id(0) // blocks_x % blocks_y
    i_n = tl.program_id(0) // blocks_x // blocks_y
    o_x = i_x * BLOCK_X + tl.arange(0, BLOCK_X)
    o_y = i_y * BLOCK_Y + tl.arange(0, BLOCK_Y)
    m_x = (o_x < width)[None, :]
    m_y = o_y < height_out

    # [BLOCK_Y]
    b_start = tl.load(starts + o_y, mask=m_y, other=0)
    p_row = planes + i_n.to(tl.int64) * height * width
    o = b_start[:, None] * width + o_x[None, :]
    p_weight = weights + o_y
    b_sum = begin((BLOCK_Y, BLOCK_X), FLOAT)
    for _ in tl.range(0, taps, loop_unroll_factor=4):
        # [BLOCK_Y, 1]
        b_weight = tl.load(p_weight, mask=m_y, other=0)[:, None]
        # [BLOCK_Y, BLOCK_X]
        b_value = tl.load(p_row + o, mask=m_x, other=0).to(b_sum.dtype)
        b_sum = added(b_sum, b_value, b_weight, FLOAT)
        p_row += width
        p_weight += height_out

    m = m_y[:, None] & m_x
    if PATCHES:
        i_f = i_n // 3
        pair = tl.cast(height_out, tl.int64) * width * 6
        b_pixel = finish(b_sum, FLOAT, tl.uint8).to(tl.float32)
        p_out = out + i_f // 2 * pair
        p_out += patch_offset(i_f, i_n % 3, o_y[:, None], o_x[None, :], width)
        tl.store(p_out, normalised(b_pixel, dtype).to(dtype), mask=m)
    else:
        p_out = out + i_n.to(tl.int64) * height_out * width
        p_out += o_y[:, None] * width + o_x[None, :]
        tl.store(p_out, finish(b_sum, FLOAT, dtype).to(dtype), mask=m)


def along_columns(
    pixels: Pixels, height: int, by_pillow: bool, patches: torch.Tensor | None = None
) -> Pixels | None:
    """The second pass, to uint8 pixels laid out as before, or of planes into `patches`."""
    height_in, width = pixels.size
    values = pixels.values
    windows = windows_on(values.device, height_in, height, by_pillow)
    if pixels.planar:
        planes, row, shape = len(values) * 3, width, (len(values), 3, height, width)
    else:
        planes, row, shape = len(values), width * 3, (len(values), height, width, 3)
    out = patches
    if out is None:
        out = torch.empty(shape, dtype=torch.uint8, device=values.device)
    grid = (planes * triton.cdiv(height, BLOCK_Y) * triton.cdiv(row, BLOCK_X),)
    _columns_kernel[grid](
        values,
        windows.starts,
        windows.weights,
        out,
        height_in,
        height,
        row,
        windows.taps,
        FLOAT=not by_pillow,
        PATCHES=patches is not None,
        BLOCK_Y=BLOCK_Y,
        BLOCK_X=BLOCK_X,
        num_warps=WARPS,
    )
    return Pixels(out, pixels.planar) if patches is None else None


def variants() -> list[Variant]:
    """Both kinds, from bytes and from the float sums of a first pass, to pixels and to patches."""
    return [
        Variant(
            f"{'float' if by_float else 'pillow'}, {origin} to {to}",
            _columns_kernel,
            {
                "planes": f"*{origin}",
                "starts": "*i32",
                "weights": "*fp32" if by_float else "*i32",
                "out": f"*{to}",
                **dict.fromkeys(("height", "height_out", "width", "taps"), "i32"),
            },
            {"FLOAT": by_float, "PATCHES": to != "u8", "BLOCK_Y": BLOCK_Y, "BLOCK_X": BLOCK_X},
            ("planes", "starts", "weights", "out", "height_out", "width"),
            num_warps=WARPS,
        )
        for by_float, origin in ((False, "u8"), (True, "u8"), (True, "fp32"))
        for to in ("u8", "bf16", "fp32")
    ]
