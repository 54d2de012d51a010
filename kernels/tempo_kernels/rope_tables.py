"""Rotary cosines and sines of packed positions, plain or three-dimensional.

    angle[t, j] = float32(position of t on the axis of j) · frequency[j]
    cos[t, j] = cos[t, j + H] = round(cos(angle[t, j])), and sin likewise,  j < H = Dh / 2

positions: int64 [T], or [3, T] (time, height, width) with axis int64 [H] of values 0, 1, 2; any
strides, so that one row expanded to three costs nothing. frequency: float32 [H]. cos, sin: [T, Dh],
bfloat16 or float32. Angle, cosine and sine are float32; `round` is to the dtype. No fused
multiply-add, so that the angle rounds as PyTorch's does.

Source: Su et al. 2021 (arXiv 2104.09864); interleaved M-RoPE as in Qwen3-VL.
"""

from __future__ import annotations

import torch

from tempo_kernels.language import tl, triton
from tempo_kernels.launch import Variant, check, check_indices, check_tensor, next_power_of_2
from tempo_kernels.rounding import rounded

DTYPES = (torch.bfloat16, torch.float32)
# Values of a thread, of bfloat16 16 bytes, where positions are plain; 4 else: reducing large angles
# takes many registers, and choosing among three axes more.
VALUES, WARPS = 4, 4
VALUES_OF_PLAIN = {torch.bfloat16: 8, torch.float32: 4}


@triton.jit(do_not_specialize=["tokens"])
def _rope_tables_kernel(
    positions,
    frequency,
    axis,
    cos,
    sin,
    tokens,
    stride_axis,
    stride_t,
    H: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_H: tl.constexpr,
):
    dtype: tl.constexpr = cos.dtype.element_ty
    i_t = tl.program_id(0).to(tl.int64) * BLOCK_T + tl.arange(0, BLOCK_T)
    o_h = tl.arange(0, BLOCK_H)
    m_t = i_t < tokens
    m_h = o_h < H
    p_position = positions + i_t * stride_t
    # [BLOCK_T, 1] int64, then [BLOCK_T, BLOCK_H] if there are three axes
    b_position = tl.load(p_position, mask=m_t, other=0)[:, None]
    if axis is not None:
        # [1, BLOCK_H], [BLOCK_T, 1], [BLOCK_T, 1] int64
        b_axis = tl.load(axis + o_h, mask=m_h, other=0)[None, :]
        b_height = tl.load(p_position + stride_axis, mask=m_t, other=0)[:, None]
        b_width = tl.load(p_position + 2 * stride_axis, mask=m_t, other=0)[:, None]
        b_position = tl.where(b_axis == 0, b_position, tl.where(b_axis == 1, b_height, b_width))
    # [BLOCK_H]
    b_frequency = tl.load(frequency + o_h, mask=m_h, other=0.0)
    # [BLOCK_T, BLOCK_H]
    b_angle = b_position.to(tl.float32) * b_frequency[None, :]
    m = m_t[:, None] & m_h[None, :]
    o = i_t[:, None] * 2 * H + o_h[None, :]
    # One table a program: with both some targets spill.
    if tl.program_id(1) == 0:
        b_cos = rounded(tl.cos(b_angle), dtype)
        tl.store(cos + o, b_cos, mask=m)
        tl.store(cos + o + H, b_cos, mask=m)
    else:
        b_sin = rounded(tl.sin(b_angle), dtype)
        tl.store(sin + o, b_sin, mask=m)
        tl.store(sin + o + H, b_sin, mask=m)


def rope_tables(
    positions: torch.Tensor,
    frequency: torch.Tensor,
    axis: torch.Tensor | None,
    dtype: torch.dtype,
    *,
    out: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """cos, sin [T, Dh] in `dtype`, both halves alike, into the two of `out` if given.

    positions: int64 [T] without an axis, [3, T] with one. Raises ValueError for shapes, dtypes or
    devices that don't fit, and for an axis outside 0…2; on a GPU that isn't looked at and means 2.
    """
    check(dtype in DTYPES, f"dtype is {dtype}; torch.bfloat16 or torch.float32 is needed")
    shape = (None,) if axis is None else (3, None)
    check_tensor("positions", positions, shape=shape, dtypes=torch.int64, contiguous=False)
    device = positions.device
    check_tensor("frequency", frequency, shape=(None,), dtypes=torch.float32, device=device)
    tokens, half = positions.shape[-1], frequency.shape[0]
    if axis is not None:
        check_tensor("axis", axis, shape=(half,), dtypes=torch.int64, device=device)
        check_indices("axis", axis, 3)
    shape = (tokens, 2 * half)
    if out is None:
        out = tuple(torch.empty(shape, dtype=dtype, device=device) for _ in range(2))
    cos, sin = out
    check_tensor("out[0]", cos, shape=shape, dtypes=dtype, device=device)
    check_tensor("out[1]", sin, shape=shape, dtypes=dtype, device=device)
    if cos.numel():
        block_t, block_h = _config(half, dtype, plain=axis is None)
        _rope_tables_kernel[(triton.cdiv(tokens, block_t), 2)](
            positions,
            frequency,
            axis,
            cos,
            sin,
            tokens,
            positions.stride(0) if axis is not None else 0,
            positions.stride(-1),
            H=half,
            BLOCK_T=block_t,
            BLOCK_H=block_h,
            num_warps=WARPS,
            enable_fp_fusion=False,
        )
    return cos, sin


def _config(half: int, dtype: torch.dtype, *, plain: bool) -> tuple[int, int]:
    """Tokens and frequencies of a tile; plain: positions have one axis."""
    block = next_power_of_2(half)
    values = VALUES_OF_PLAIN[dtype] if plain else VALUES
    return max(1, 32 * WARPS * values // block), block


def rope_tables_ref(
    positions: torch.Tensor,
    frequency: torch.Tensor,
    axis: torch.Tensor | None,
    dtype: torch.dtype,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`rope_tables` in plain PyTorch."""
    placed = positions[:, None].float() if axis is None else positions.float()[axis].T
    angle = placed * frequency
    angle = torch.cat((angle, angle), dim=-1)
    return angle.cos().to(dtype), angle.sin().to(dtype)


def variants() -> list[Variant]:
    """Heads of 128: plain (language model) and three-dimensional (compressor) positions."""
    found = []
    for dtype, torch_dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        for axes in (1, 3):
            block_t, block_h = _config(64, torch_dtype, plain=axes == 1)
            tables = ("cos", "sin")
            indices = ("positions", "axis") if axes == 3 else ("positions",)
            found.append(
                Variant(
                    f"{dtype}, {axes} axes",
                    _rope_tables_kernel,
                    dict.fromkeys(tables, f"*{dtype}")
                    | dict.fromkeys(indices, "*i64")
                    | {"frequency": "*fp32", "tokens": "i32"}
                    | {"stride_axis": "i32"},
                    {"H": 64, "BLOCK_T": block_t, "BLOCK_H": block_h, "stride_t": 1}
                    | ({} if axes == 3 else {"axis": None}),
                    (*tables, *indices, "frequency"),
                    num_warps=WARPS,
                    fp_fusion=False,
                    narrow_store="four values a thread: with eight, Triton 3.9 spills on sm_90 in 4"
                    " to 16 warps, and in 2 takes 56 registers in place of 32"
                    if dtype == "bf16" and axes == 3
                    else "",
                )
            )
    return found
