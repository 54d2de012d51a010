"""The two passes of a bicubic resizing: along the rows, and along the columns.

    along_rows:     h[y, i] = Σ_t weights[t, i] · frame[y, starts[i] + t]
    along_columns:  v[j, x] = Σ_t weights[t, j] · frame[starts[j] + t, x]

By Pillow: integer sums with 22 fractional bits, from 2^21 on, shifted down and clamped to 0…255.
By float: float32 sums, tap after tap, kept in float32 between two passes; at the end clamped and
rounded to the nearest whole number, halves to even.

Frames are uint8, either interleaved [F, H, W, 3] or planar [F, 3, H, W]. A pass along rows leaves
planes, because every access to them is wide and patches are cut from planes. A pass along columns
of planes may write normalised patches in place of pixels (`patches.py`).

Source: Pillow's `Resample.c`; torch's `upsample_bicubic2d_aa`; weights: `resize_weights.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from tempo_kernels.language import tl, triton
from tempo_kernels.launch import Variant
from tempo_kernels.patches import as_words, normalised, patch_offset
from tempo_kernels.resize_weights import PRECISION_BITS, windows_on

# Along rows: 4 rows a tile, so that a weight serves 12 sums of interleaved pixels.
ROWS_Y, ROWS_X, ROWS_WARPS = 4, 128, 4
# Along columns: 16 columns a thread, one 16-byte load of bytes a tap. 16 rows are a row of patches.
COLUMNS_Y, COLUMNS_X, COLUMNS_WARPS = 16, 128, 4

_HALF = tl.constexpr(1 << (PRECISION_BITS - 1))
_BITS = tl.constexpr(PRECISION_BITS)
# Added to and taken from a float32 below 2^22, it rounds to a whole number, halves to even.
_ROUNDER = tl.constexpr(12582912.0)


@triton.jit
def _begin(shape: tl.constexpr, FLOAT: tl.constexpr):
    if FLOAT:
        return tl.full(shape, 0.0, tl.float32)
    else:
        return tl.full(shape, _HALF, tl.int32)


@triton.jit
def _finish(b_sum, FLOAT: tl.constexpr, dtype: tl.constexpr):
    """The value of a sum: int32 or float32 0 to 255, or the float32 sum itself for float32."""
    if FLOAT and dtype == tl.float32:
        return b_sum
    elif FLOAT:
        return tl.minimum(tl.maximum(b_sum, 0.0), 255.0) + _ROUNDER - _ROUNDER
    else:
        return tl.minimum(tl.maximum(b_sum >> _BITS, 0), 255)


@triton.jit
def _value(b_word, position: tl.constexpr, FLOAT: tl.constexpr):
    """One byte of words."""
    b_byte = (b_word >> (8 * position)) & 0xFF
    if FLOAT:
        return b_byte.to(tl.float32)
    else:
        return b_byte.to(tl.int32)


@triton.jit
def _window(b_low, b_high, b_shift):
    """The four bytes that begin b_shift bits into two neighbouring words."""
    b_both = (b_high.to(tl.uint64) << 32) | b_low.to(tl.uint64)
    return (b_both >> b_shift).to(tl.uint32)


@triton.jit
def _word(p_word, left, ahead: tl.constexpr):
    # No word beyond the last one is read: the taps that ask for it have weight 0.
    return tl.load(p_word + ahead, mask=left > ahead, other=0).to(tl.uint32, bitcast=True)


@triton.jit(do_not_specialize=["words_total"])
def _rows_kernel(
    words,
    starts,
    weights,
    out,
    words_total,
    height,
    width,
    width_out,
    taps,
    CHANNELS: tl.constexpr,
    FLOAT: tl.constexpr,
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,
):
    dtype: tl.constexpr = out.dtype.element_ty
    blocks_x = tl.cdiv(width_out, BLOCK_X)
    blocks_y = tl.cdiv(height, BLOCK_Y)
    i_x = tl.program_id(0) % blocks_x
    i_y = tl.program_id(0) // blocks_x % blocks_y
    i_n = (tl.program_id(0) // blocks_x // blocks_y).to(tl.int64)
    o_x = i_x * BLOCK_X + tl.arange(0, BLOCK_X)
    o_y = i_y * BLOCK_Y + tl.arange(0, BLOCK_Y)
    m_x = o_x < width_out

    # The frame or plane begins `phase` bytes into a word; from there 32 bits count the bytes.
    o_frame = i_n * height * width * CHANNELS
    phase = (o_frame & 3).to(tl.int32)
    words_left = tl.minimum(words_total - (o_frame >> 2), 2147483647).to(tl.int32)
    # [BLOCK_X]
    b_start = tl.load(starts + o_x, mask=m_x, other=0)
    o_row = tl.minimum(o_y, height - 1) * (width * CHANNELS) + phase
    # [BLOCK_Y, BLOCK_X]
    o_byte = o_row[:, None] + (b_start * CHANNELS)[None, :]
    b_shift = ((o_byte & 3) * 8).to(tl.uint64)
    p_word = words + (o_frame >> 2) + (o_byte >> 2)
    left = words_left - (o_byte >> 2)
    b_0 = _word(p_word, left, 0)

    b_red = _begin((BLOCK_Y, BLOCK_X), FLOAT)
    if CHANNELS == 3:
        b_green = _begin((BLOCK_Y, BLOCK_X), FLOAT)
        b_blue = _begin((BLOCK_Y, BLOCK_X), FLOAT)
    p_weight = weights + o_x
    for _ in range(0, taps, 4):
        # [1, BLOCK_X] four times
        b_w0 = tl.load(p_weight, mask=m_x, other=0)[None, :]
        b_w1 = tl.load(p_weight + width_out, mask=m_x, other=0)[None, :]
        b_w2 = tl.load(p_weight + 2 * width_out, mask=m_x, other=0)[None, :]
        b_w3 = tl.load(p_weight + 3 * width_out, mask=m_x, other=0)[None, :]
        if CHANNELS == 3:
            # [BLOCK_Y, BLOCK_X] three times
            b_1 = _word(p_word, left, 1)
            b_2 = _word(p_word, left, 2)
            b_3 = _word(p_word, left, 3)
            # Four pixels of three bytes.
            b_a = _window(b_0, b_1, b_shift)
            b_b = _window(b_1, b_2, b_shift)
            b_c = _window(b_2, b_3, b_shift)
            b_red += _value(b_a, 0, FLOAT) * b_w0
            b_green += _value(b_a, 1, FLOAT) * b_w0
            b_blue += _value(b_a, 2, FLOAT) * b_w0
            b_red += _value(b_a, 3, FLOAT) * b_w1
            b_green += _value(b_b, 0, FLOAT) * b_w1
            b_blue += _value(b_b, 1, FLOAT) * b_w1
            b_red += _value(b_b, 2, FLOAT) * b_w2
            b_green += _value(b_b, 3, FLOAT) * b_w2
            b_blue += _value(b_c, 0, FLOAT) * b_w2
            b_red += _value(b_c, 1, FLOAT) * b_w3
            b_green += _value(b_c, 2, FLOAT) * b_w3
            b_blue += _value(b_c, 3, FLOAT) * b_w3
            b_0 = b_3
        else:
            # [BLOCK_Y, BLOCK_X]
            b_1 = _word(p_word, left, 1)
            b_a = _window(b_0, b_1, b_shift)
            b_red += _value(b_a, 0, FLOAT) * b_w0
            b_red += _value(b_a, 1, FLOAT) * b_w1
            b_red += _value(b_a, 2, FLOAT) * b_w2
            b_red += _value(b_a, 3, FLOAT) * b_w3
            b_0 = b_1
        p_word += CHANNELS
        left -= CHANNELS
        p_weight += 4 * width_out

    plane = tl.cast(height, tl.int64) * width_out
    p_out = out + i_n * CHANNELS * plane + o_y[:, None] * width_out + o_x[None, :]
    m = (o_y < height)[:, None] & m_x[None, :]
    tl.store(p_out, _finish(b_red, FLOAT, dtype).to(dtype), mask=m)
    if CHANNELS == 3:
        tl.store(p_out + plane, _finish(b_green, FLOAT, dtype).to(dtype), mask=m)
        tl.store(p_out + 2 * plane, _finish(b_blue, FLOAT, dtype).to(dtype), mask=m)


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
    b_sum = _begin((BLOCK_Y, BLOCK_X), FLOAT)
    for _ in tl.range(0, taps, loop_unroll_factor=4):
        # [BLOCK_Y, 1]
        b_weight = tl.load(p_weight, mask=m_y, other=0)[:, None]
        # [BLOCK_Y, BLOCK_X]
        b_value = tl.load(p_row + o, mask=m_x, other=0).to(b_sum.dtype)
        b_sum += b_value * b_weight
        p_row += width
        p_weight += height_out

    m = m_y[:, None] & m_x
    if PATCHES:
        i_f = i_n // 3
        pair = tl.cast(height_out, tl.int64) * width * 6
        b_pixel = _finish(b_sum, FLOAT, tl.uint8).to(tl.float32)
        p_out = out + i_f // 2 * pair
        p_out += patch_offset(i_f, i_n % 3, o_y[:, None], o_x[None, :], width)
        tl.store(p_out, normalised(b_pixel, dtype).to(dtype), mask=m)
    else:
        p_out = out + i_n.to(tl.int64) * height_out * width
        p_out += o_y[:, None] * width + o_x[None, :]
        tl.store(p_out, _finish(b_sum, FLOAT, dtype).to(dtype), mask=m)


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


def along_rows(pixels: Pixels, width: int, by_pillow: bool, dtype: torch.dtype) -> Pixels:
    """The first pass, of uint8 pixels, to planes of dtype (float32 only where not by_pillow)."""
    height, width_in = pixels.size
    values = pixels.values
    windows = windows_on(values.device, width_in, width, by_pillow)
    out = torch.empty((len(values), 3, height, width), dtype=dtype, device=values.device)
    channels = 1 if pixels.planar else 3
    planes = len(values) * 3 // channels
    words = as_words(values)
    grid = (planes * triton.cdiv(height, ROWS_Y) * triton.cdiv(width, ROWS_X),)
    _rows_kernel[grid](
        words,
        windows.starts,
        windows.weights,
        out,
        words.numel(),
        height,
        width_in,
        width,
        windows.taps,
        CHANNELS=channels,
        FLOAT=not by_pillow,
        BLOCK_Y=ROWS_Y,
        BLOCK_X=ROWS_X,
        num_warps=ROWS_WARPS,
    )
    return Pixels(out, planar=True)


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
    grid = (planes * triton.cdiv(height, COLUMNS_Y) * triton.cdiv(row, COLUMNS_X),)
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
        BLOCK_Y=COLUMNS_Y,
        BLOCK_X=COLUMNS_X,
        num_warps=COLUMNS_WARPS,
    )
    return Pixels(out, pixels.planar) if patches is None else None


def _variant(
    name: str, kernel, pointers: dict[str, str], sizes: tuple[str, ...], **rest
) -> Variant:
    rows = kernel is _rows_kernel
    constants = {
        "BLOCK_Y": ROWS_Y if rows else COLUMNS_Y,
        "BLOCK_X": ROWS_X if rows else COLUMNS_X,
        **rest,
    }
    signature = pointers | dict.fromkeys(sizes, "i32")
    divisible = tuple(n for n in signature if n not in ("taps", "words_total", "height"))
    return Variant(
        name,
        kernel,
        signature,
        constants,
        divisible,
        num_warps=ROWS_WARPS if rows else COLUMNS_WARPS,
        narrow_load="every lane reads a window of its own" if rows else "",
        narrow_store="four bytes of a plane a thread" if rows and pointers["out"] == "*u8" else "",
    )


def variants() -> list[Variant]:
    """Both passes of both kinds, from and to every layout that a chain of resizings meets."""
    found = []
    for by_float, weight in ((False, "i32"), (True, "fp32")):
        kind = "float" if by_float else "pillow"
        for channels in (3, 1):
            for to in ("u8", "fp32")[: 1 + by_float]:
                pointers = {"words": "*i32", "starts": "*i32", "weights": f"*{weight}"}
                sizes = ("words_total", "height", "width", "width_out", "taps")
                name = f"{kind} rows, {channels} channels, to {to}"
                found.append(
                    _variant(
                        name,
                        _rows_kernel,
                        pointers | {"out": f"*{to}"},
                        sizes,
                        CHANNELS=channels,
                        FLOAT=by_float,
                    )
                )
        for origin in ("u8", "fp32")[: 1 + by_float]:
            for to in ("u8", "bf16", "fp32"):
                pointers = {"planes": f"*{origin}", "starts": "*i32", "weights": f"*{weight}"}
                sizes = ("height", "height_out", "width", "taps")
                name = f"{kind} columns, {origin} to {to}"
                found.append(
                    _variant(
                        name,
                        _columns_kernel,
                        pointers | {"out": f"*{to}"},
                        sizes,
                        FLOAT=by_float,
                        PATCHES=to != "u8",
                    )
                )
    return found
