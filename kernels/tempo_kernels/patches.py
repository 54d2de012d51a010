"""uint8 frames to the vision encoder's normalised patches, in merge-block order.

    patches[f // 2, p, c, f % 2, y % 16, x % 16] = round((frames[f, y, x, c] − 127.5) / 127.5)

frames: uint8 [F, H, W, 3], or planes [F, 3, H, W]; F even, H and W multiples of 32. patches:
float32 or bfloat16 [F/2, P, 1536], P = (H/16)(W/16): blocks of 2×2 patches in row order, the
patches of a block in row order. The quotient is float32, rounded to the dtype once.

Source: Qwen3-VL's video processor. `patch_offset` and `normalised` also end the last resizing.
"""

from __future__ import annotations

import torch

from tempo_kernels.language import tl, triton
from tempo_kernels.launch import Variant, check, check_tensor
from tempo_kernels.rounding import rounded

DTYPES = (torch.bfloat16, torch.float32)
PATCH, TEMPORAL, MERGE, CHANNELS = 16, 2, 2, 3
SIDE = PATCH * MERGE  # the sides of a frame are multiples of it
VALUES = CHANNELS * TEMPORAL * PATCH * PATCH  # of one patch

# A row of patches by 128 columns: 16 bytes a thread and load of a plane.
BLOCK_X = 128
WARPS = 4


@triton.jit
def patch_offset(i_f, i_c, o_y, o_x, width):
    """Where pixel (o_y, o_x) of channel i_c of frame i_f goes, but for the frames before its pair.

    Less i_f // 2 times the values of a pair of frames, which need 64 bits.
    """
    o_row = o_y // 16
    o_column = o_x // 16
    o_patch = ((o_row // 2) * (width // 32) + o_column // 2) * 4 + o_row % 2 * 2 + o_column % 2
    return o_patch * 1536 + (i_c * 512 + i_f % 2 * 256) + o_y % 16 * 16 + o_x % 16


@triton.jit
def normalised(b_value, dtype: tl.constexpr):
    """(value − 127.5) / 127.5 of float32 whole numbers from 0 to 255, rounded to dtype."""
    b_centred = b_value - 127.5
    if dtype == tl.bfloat16:
        # The product rounds to the same bfloat16 as the quotient, for each of the 256 values.
        return rounded(b_centred * (1 / 127.5), dtype)
    else:
        return tl.div_rn(b_centred, tl.full(b_centred.shape, 127.5, tl.float32))


@triton.jit
def _byte(b_word, position: tl.constexpr):
    return ((b_word >> (8 * position)) & 0xFF).to(tl.float32)


@triton.jit
def _four(b_0, b_1, b_2, b_3):
    """[Y, X/4] four times to [Y, X], column by column."""
    return tl.interleave(tl.interleave(b_0, b_2), tl.interleave(b_1, b_3))


@triton.jit
def _words(p_word, m_g, BLOCK_Y: tl.constexpr, BLOCK_G: tl.constexpr):
    """Four neighbouring words from each of p_word [Y, G] on: [Y, G] four times."""
    # [Y, G, 4], 16 bytes a thread
    p = p_word[:, :, None] + tl.arange(0, 4)[None, None, :]
    b_word = tl.load(p, mask=m_g[:, :, None], other=0)
    b_even, b_odd = tl.split(tl.reshape(b_word, (BLOCK_Y, BLOCK_G, 2, 2)))
    b_0, b_2 = tl.split(b_even)
    b_1, b_3 = tl.split(b_odd)
    return b_0, b_1, b_2, b_3


@triton.jit
def _to_patches_kernel(
    frames, out, height, width, PLANAR: tl.constexpr, BLOCK_Y: tl.constexpr, BLOCK_X: tl.constexpr
):
    dtype: tl.constexpr = out.dtype.element_ty
    i_f = tl.program_id(2)
    o_y = tl.program_id(1) * BLOCK_Y + tl.arange(0, BLOCK_Y)
    o_x = tl.program_id(0) * BLOCK_X + tl.arange(0, BLOCK_X)
    m = (o_x < width)[None, :]
    pixels = height * width
    p_pair = out + (i_f // 2).to(tl.int64) * pixels * 6
    if PLANAR:
        p_frame = frames + i_f.to(tl.int64) * pixels * 3
        for i_c in tl.static_range(3):
            # [BLOCK_Y, BLOCK_X]
            p = p_frame + i_c * pixels + o_y[:, None] * width + o_x[None, :]
            b_value = tl.load(p, mask=m, other=0).to(tl.float32)
            o = patch_offset(i_f, i_c, o_y[:, None], o_x[None, :], width)
            tl.store(p_pair + o, normalised(b_value, dtype).to(dtype), mask=m)
    else:
        # Three words hold four pixels, and twelve a group of sixteen.
        GROUPS: tl.constexpr = BLOCK_X // 16
        o_g = tl.program_id(0) * GROUPS + tl.arange(0, GROUPS)
        m_g = (o_g * 16 < width)[None, :]
        p_frame = frames + i_f.to(tl.int64) * (pixels // 16) * 12
        p_word = p_frame + o_y[:, None] * (width // 16 * 12) + o_g[None, :] * 12
        # [BLOCK_Y, GROUPS] twelve times
        b_00, b_10, b_20, b_01 = _words(p_word, m_g, BLOCK_Y, GROUPS)
        b_11, b_21, b_02, b_12 = _words(p_word + 4, m_g, BLOCK_Y, GROUPS)
        b_22, b_03, b_13, b_23 = _words(p_word + 8, m_g, BLOCK_Y, GROUPS)
        # [BLOCK_Y, BLOCK_X / 4] three times: first, second and third words of four pixels
        b_0 = _four(b_00, b_01, b_02, b_03)
        b_1 = _four(b_10, b_11, b_12, b_13)
        b_2 = _four(b_20, b_21, b_22, b_23)
        o = patch_offset(i_f, 0, o_y[:, None], o_x[None, :], width)
        b_red = _four(_byte(b_0, 0), _byte(b_0, 3), _byte(b_1, 2), _byte(b_2, 1))
        tl.store(p_pair + o, normalised(b_red, dtype).to(dtype), mask=m)
        b_green = _four(_byte(b_0, 1), _byte(b_1, 0), _byte(b_1, 3), _byte(b_2, 2))
        tl.store(p_pair + 512 + o, normalised(b_green, dtype).to(dtype), mask=m)
        b_blue = _four(_byte(b_0, 2), _byte(b_1, 1), _byte(b_2, 0), _byte(b_2, 3))
        tl.store(p_pair + 1024 + o, normalised(b_blue, dtype).to(dtype), mask=m)


def as_words(values: torch.Tensor) -> torch.Tensor:
    """The bytes of a contiguous uint8 tensor as int32 words; a view, where four bytes align."""
    flat = values.view(-1)
    short = -flat.numel() % 4
    if short or flat.storage_offset() % 4 or flat.data_ptr() % 4:
        flat = torch.cat((flat, flat.new_zeros(short)))
    return flat.view(torch.int32)


def patches_for(
    frames: int,
    height: int,
    width: int,
    dtype: torch.dtype,
    like: torch.Tensor,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Room for the patches of frames that lie where `like` does: `out`, or new.

    Raises ValueError for frames that don't divide into patches, another dtype, or an `out` that
    doesn't fit.
    """
    check(
        frames % TEMPORAL == 0 and height % SIDE == 0 and width % SIDE == 0,
        f"{frames} frames of {width}x{height} don't divide into pairs of frames and blocks of"
        f" {SIDE} pixels",
    )
    check(dtype in DTYPES, f"patches are float32 or bfloat16, not {dtype}")
    check(height * width <= 1 << 27, f"a frame of {width}x{height} is too large for a kernel")
    shape = (frames // TEMPORAL, height * width // PATCH**2, VALUES)
    if out is None:
        return torch.empty(shape, dtype=dtype, device=like.device)
    check_tensor("out", out, shape=shape, dtypes=dtype, device=like.device)
    return out


def to_patches(
    frames: torch.Tensor,
    dtype: torch.dtype = torch.bfloat16,
    *,
    planar: bool = False,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """The patches [F/2, P, 1536] of uint8 frames, into `out` if given.

    frames: [F, H, W, 3], or [F, 3, H, W] where planar. Raises ValueError for a shape that doesn't
    divide, another dtype, strides or device.
    """
    shape = (None, CHANNELS, None, None) if planar else (None, None, None, CHANNELS)
    check_tensor("frames", frames, shape=shape, dtypes=torch.uint8)
    count, height, width = frames.shape[0], frames.shape[1 + planar], frames.shape[2 + planar]
    check(count < 1 << 16, f"{count} frames; fewer than 65536 at a time are needed")
    check(height < PATCH << 16, f"frames are {height} high; less than {PATCH << 16} is needed")
    out = patches_for(count, height, width, dtype, frames, out)
    if out.numel():
        grid = (triton.cdiv(width, BLOCK_X), height // PATCH, count)
        _to_patches_kernel[grid](
            frames if planar else as_words(frames),
            out,
            height,
            width,
            PLANAR=planar,
            BLOCK_Y=PATCH,
            BLOCK_X=BLOCK_X,
            num_warps=WARPS,
        )
    return out


def lies_in_planes(frames: torch.Tensor) -> bool:
    """Whether frames [F, H, W, 3], at least one, are contiguous planes [F, 3, H, W] in memory."""
    are_some = isinstance(frames, torch.Tensor) and frames.ndim == 4 and frames.numel() > 0
    return are_some and frames.permute(0, 3, 1, 2).is_contiguous()


def _lies_in_lines(frames: torch.Tensor) -> bool:
    """Whether the lines of each plane are contiguous and sixteen bytes can be moved as a number."""
    *others, along = frames.permute(0, 3, 1, 2).stride()
    starts = (frames.storage_offset(), frames.data_ptr(), *others)
    return along == 1 and frames.numel() > 0 and all(start % PATCH == 0 for start in starts)


def to_patches_ref(
    frames: torch.Tensor, dtype: torch.dtype = torch.bfloat16, *, out: torch.Tensor | None = None
) -> torch.Tensor:
    """`to_patches` of frames [F, H, W, 3] in plain PyTorch, wherever in memory their values are."""
    count, height, width, _ = frames.shape
    rows, columns = height // SIDE, width // SIDE
    patches = patches_for(count, height, width, dtype, frames, out)
    if _lies_in_lines(frames):
        # A row of a patch, 16 bytes, is moved as one number.
        lines = frames.permute(0, 3, 1, 2).view(torch.complex128)
        split = lines.view(-1, TEMPORAL, CHANNELS, rows, MERGE, PATCH, columns, MERGE)
        ordered = split.permute(0, 3, 6, 4, 7, 2, 1, 5).contiguous().view(torch.uint8)
    else:
        split = frames.view(-1, TEMPORAL, rows, MERGE, PATCH, columns, MERGE, PATCH, CHANNELS)
        ordered = split.permute(0, 2, 5, 3, 6, 8, 1, 4, 7)
    ordered = ordered.reshape(patches.shape)
    if dtype == torch.float32:
        return patches.copy_(ordered).sub_(127.5).div_(127.5)
    return patches.copy_(ordered.float().sub_(127.5).div_(127.5))


def variants() -> list[Variant]:
    """Interleaved and planar frames to both dtypes."""
    return [
        Variant(
            f"{dtype}, {'planar' if planar else 'interleaved'}",
            _to_patches_kernel,
            {
                "frames": "*u8" if planar else "*i32",
                "out": f"*{dtype}",
                "height": "i32",
                "width": "i32",
            },
            {"PLANAR": planar, "BLOCK_Y": PATCH, "BLOCK_X": BLOCK_X},
            ("frames", "out", "height", "width"),
            num_warps=WARPS,
        )
        for dtype in ("bf16", "fp32")
        for planar in (False, True)
    ]
