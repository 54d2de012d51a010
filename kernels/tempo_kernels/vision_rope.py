"""The vision encoder's two-dimensional rotary embedding, on packed qkv and in place.

    y = round(x · cos + (−x[H:], x[:H]) · sin),  H = Dh / 2               x: one head, [Dh]

of the query and key heads of qkv [n, P, 3 · heads · Dh] (query, key, value), bfloat16 or float32.
cos, sin: float32 [P, Dh] with both halves alike (a quarter of Dh turns with the row, a quarter with
the column); the first is read. Products and sum are float32, each rounded to it (no fused
multiply-add), and the sum is rounded to the dtype once, as PyTorch's modules do. One pass.

Source: Qwen2-VL's 2-D RoPE (arXiv 2409.12191), as in Qwen3-VL's vision encoder.
"""

from __future__ import annotations

import torch

from tempo_kernels.language import tl, triton
from tempo_kernels.launch import Variant, check, check_tensor, next_power_of_2
from tempo_kernels.rounding import rounded

DTYPES = (torch.bfloat16, torch.float32)


def _config(heads: int, head_dim: int) -> tuple[int, int, int]:
    """Rows (query and key heads) and columns of a token's tile of half heads, and warps.

    8 values of either half a thread: one 16-byte load each in bfloat16.
    """
    rows, block = next_power_of_2(2 * heads), next_power_of_2(head_dim // 2)
    return rows, block, max(1, min(16, rows * block // 256))


@triton.jit(do_not_specialize=["patches"])
def _vision_rope_kernel(
    qkv,
    cos,
    sin,
    patches,
    HEADS: tl.constexpr,
    H: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_H: tl.constexpr,
):
    dtype: tl.constexpr = qkv.dtype.element_ty
    i_t = tl.program_id(0).to(tl.int64)
    o_table = tl.program_id(0) % patches * 2 * H
    i_row = tl.arange(0, BLOCK_ROWS)
    o_h = tl.arange(0, BLOCK_H)
    m_h = o_h < H
    m = (i_row < 2 * HEADS)[:, None] & m_h[None, :]
    p_first = qkv + i_t * 3 * HEADS * 2 * H + i_row[:, None] * 2 * H + o_h[None, :]
    # [BLOCK_ROWS, BLOCK_H] twice
    b_first = tl.load(p_first, mask=m, other=0.0).to(tl.float32)
    b_second = tl.load(p_first + H, mask=m, other=0.0).to(tl.float32)
    # [BLOCK_H] twice
    b_cos = tl.load(cos + o_table + o_h, mask=m_h, other=0.0)[None, :]
    b_sin = tl.load(sin + o_table + o_h, mask=m_h, other=0.0)[None, :]
    b_turned1 = b_first * b_cos - b_second * b_sin
    b_turned2 = b_second * b_cos + b_first * b_sin
    tl.store(p_first, rounded(b_turned1, dtype), mask=m)
    tl.store(p_first + H, rounded(b_turned2, dtype), mask=m)


def vision_rope(
    qkv: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, *, heads: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rotate the queries and keys in qkv [n, P, 3 · heads · Dh] in place.

    cos, sin: float32 [P, Dh]. Returns query, key, value: views [n, P, heads, Dh] of qkv, the last
    dimension contiguous. Raises ValueError for shapes, strides, dtypes or devices that don't fit.
    """
    check(isinstance(heads, int) and heads > 0, f"heads is {heads!r}; at least 1 is needed")
    check_tensor("cos", cos, shape=(None, None), dtypes=torch.float32)
    patches, dim = cos.shape
    check(dim > 0 and dim % 2 == 0, f"cos has rows of {dim}; an even head size is needed")
    check_tensor("sin", sin, shape=(patches, dim), dtypes=torch.float32, device=cos.device)
    shape = (None, patches, 3 * heads * dim)
    check_tensor("qkv", qkv, shape=shape, dtypes=DTYPES, device=cos.device)
    tokens = qkv.shape[0] * patches
    if tokens:
        rows, block_h, warps = _config(heads, dim)
        check(
            rows * block_h <= 16384,
            f"qkv has {heads} heads of {dim}: at most 16384 values of half heads fit a program",
        )
        _vision_rope_kernel[(tokens,)](
            qkv,
            cos,
            sin,
            patches,
            HEADS=heads,
            H=dim // 2,
            BLOCK_ROWS=rows,
            BLOCK_H=block_h,
            num_warps=warps,
            enable_fp_fusion=False,
        )
    query, key, value = qkv.unflatten(-1, (3, heads, dim)).unbind(2)
    return query, key, value


def vision_rope_ref(
    qkv: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, *, heads: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """`vision_rope` in plain PyTorch, which leaves qkv as it is."""
    both = 2 * heads
    qk, value = qkv.tensor_split((both * cos.shape[-1],), -1)
    qk = qk.float()
    halves = qk.unflatten(-1, (both, 2, -1)).roll(1, -2).flatten(-3)
    low, high = sin.chunk(2, -1)
    # Tables as wide as the rows of q and k: the values of a head alone are short loops.
    turned = qk * cos.repeat(1, both)
    turned += halves.mul_(torch.cat((-low, high), -1).repeat(1, both))
    query, key = turned.to(qkv.dtype).unflatten(-1, (2, heads, -1)).unbind(2)
    return query, key, value.unflatten(-1, (heads, -1))


def variants() -> list[Variant]:
    """The vision encoder: 16 heads of 64."""
    rows, block_h, warps = _config(16, 64)
    tensors = ("qkv", "cos", "sin")
    return [
        Variant(
            dtype,
            _vision_rope_kernel,
            {"qkv": f"*{dtype}", "cos": "*fp32", "sin": "*fp32", "patches": "i32"},
            {"HEADS": 16, "H": 32, "BLOCK_ROWS": rows, "BLOCK_H": block_h},
            tensors,
            num_warps=warps,
            fp_fusion=False,
        )
        for dtype in ("bf16", "fp32")
    ]
