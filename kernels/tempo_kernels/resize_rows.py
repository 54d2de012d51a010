"""The first pass of a resizing: along the rows.

    h[y, i] = Σ_t weights[t, i] · frame[y, starts[i] + t]

frame: uint8, interleaved [F, H, W, 3] or planar [F, 3, H, W] → planes of uint8, or of float32 where
a second pass follows that isn't Pillow's: every access to planes is wide, and patches are cut from
them. Sums and rounding: `resize_sums.py`; the reference is that of both passes, in `resize.py`.
"""

from __future__ import annotations

import torch

from tempo_kernels.language import tl, triton
from tempo_kernels.launch import Variant
from tempo_kernels.patches import as_words
from tempo_kernels.resize_sums import Pixels, added, begin, finish
from tempo_kernels.resize_weights import windows_on

# 4 rows a tile, so that a weight serves 12 sums of interleaved pixels.
BLOCK_Y, BLOCK_X, WARPS = 4, 128, 4


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

    b_red = begin((BLOCK_Y, BLOCK_X), FLOAT)
    if CHANNELS == 3:
        b_green = begin((BLOCK_Y, BLOCK_X), FLOAT)
        b_blue = begin((BLOCK_Y, BLOCK_X), FLOAT)
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
            b_red = added(b_red, _value(b_a, 0, FLOAT), b_w0, FLOAT)
            b_green = added(b_green, _value(b_a, 1, FLOAT), b_w0, FLOAT)
            b_blue = added(b_blue, _value(b_a, 2, FLOAT), b_w0, FLOAT)
            b_red = added(b_red, _value(b_a, 3, FLOAT), b_w1, FLOAT)
            b_green = added(b_green, _value(b_b, 0, FLOAT), b_w1, FLOAT)
            b_blue = added(b_blue, _value(b_b, 1, FLOAT), b_w1, FLOAT)
            b_red = added(b_red, _value(b_b, 2, FLOAT), b_w2, FLOAT)
            b_green = added(b_green, _value(b_b, 3, FLOAT), b_w2, FLOAT)
            b_blue = added(b_blue, _value(b_c, 0, FLOAT), b_w2, FLOAT)
            b_red = added(b_red, _value(b_c, 1, FLOAT), b_w3, FLOAT)
            b_green = added(b_green, _value(b_c, 2, FLOAT), b_w3, FLOAT)
            b_blue = added(b_blue, _value(b_c, 3, FLOAT), b_w3, FLOAT)
            b_0 = b_3
        else:
            # [BLOCK_Y, BLOCK_X]
            b_1 = _word(p_word, left, 1)
            b_a = _window(b_0, b_1, b_shift)
            b_red = added(b_red, _value(b_a, 0, FLOAT), b_w0, FLOAT)
            b_red = added(b_red, _value(b_a, 1, FLOAT), b_w1, FLOAT)
            b_red = added(b_red, _value(b_a, 2, FLOAT), b_w2, FLOAT)
            b_red = added(b_red, _value(b_a, 3, FLOAT), b_w3, FLOAT)
            b_0 = b_1
        p_word += CHANNELS
        left -= CHANNELS
        p_weight += 4 * width_out

    plane = tl.cast(height, tl.int64) * width_out
    p_out = out + i_n * CHANNELS * plane + o_y[:, None] * width_out + o_x[None, :]
    m = (o_y < height)[:, None] & m_x[None, :]
    tl.store(p_out, finish(b_red, FLOAT, dtype).to(dtype), mask=m)
    if CHANNELS == 3:
        tl.store(p_out + plane, finish(b_green, FLOAT, dtype).to(dtype), mask=m)
        tl.store(p_out + 2 * plane, finish(b_blue, FLOAT, dtype).to(dtype), mask=m)


def along_rows(pixels: Pixels, width: int, by_pillow: bool, dtype: torch.dtype) -> Pixels:
    """The first pass, of uint8 pixels, to planes of dtype (float32 only where not by_pillow)."""
    height, width_in = pixels.size
    values = pixels.values
    windows = windows_on(values.device, width_in, width, by_pillow)
    out = torch.empty((len(values), 3, height, width), dtype=dtype, device=values.device)
    channels = 1 if pixels.planar else 3
    planes = len(values) * 3 // channels
    words = as_words(values)
    grid = (planes * triton.cdiv(height, BLOCK_Y) * triton.cdiv(width, BLOCK_X),)
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
        BLOCK_Y=BLOCK_Y,
        BLOCK_X=BLOCK_X,
        num_warps=WARPS,
    )
    return Pixels(out, planar=True)


def variants() -> list[Variant]:
    """Both kinds, from frames and planes, to uint8 and to what a float pass goes on with.

    Frames may have any width (854 or 1366); planes have one that a step before gave them.
    """
    return [
        Variant(
            f"{'float' if by_float else 'pillow'}, {channels} channels, to {to}"
            + ("" if even else ", any width"),
            _rows_kernel,
            {
                "words": "*i32",
                "starts": "*i32",
                "weights": "*fp32" if by_float else "*i32",
                "out": f"*{to}",
                **dict.fromkeys(("words_total", "height", "width", "width_out", "taps"), "i32"),
            },
            {"CHANNELS": channels, "FLOAT": by_float, "BLOCK_Y": BLOCK_Y, "BLOCK_X": BLOCK_X},
            ("words", "starts", "weights", "out", "width_out") + ("width",) * even,
            num_warps=WARPS,
            narrow_load="every lane reads a window of its own",
            narrow_store="four bytes of a plane a thread: with sixteen, in 1 to 4 warps, 190 to 255"
            " registers in place of at most 80, and some spill"
            if to == "u8"
            else "",
        )
        for by_float, to in ((False, "u8"), (True, "u8"), (True, "fp32"))
        for channels, even in ((3, True), (3, False), (1, True))
    ]
