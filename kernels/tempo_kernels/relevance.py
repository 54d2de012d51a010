"""Relevance: how much each segment has to do with the question, for all segments in one launch.

    x = hidden[index[i]]                                      the segment's last prompt token
    y = round(round(x · rsqrt(mean(x²) + eps)) · weight)      RMSNorm, round = to hidden's dtype
    relevance[i] = sigmoid(Σ y · direction)

hidden: [T, D], float32 or bfloat16, before the final norm. index: int64 [S]. weight: [D], as
hidden. direction: float32 [D], the difference of the output head's rows for "Yes" and "No".
relevance: float32 [S].

Rounds twice, where the norm of the published model does; the rest is float32. An index outside
0…T - 1, which no launcher sees on a GPU without waiting, reads nothing and gives NaN.

Source: the published code scores a segment by the probability of "Yes" against "No" at its last
prompt token; the sigmoid of the difference is that softmax over two.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tempo_kernels.language import tl, triton
from tempo_kernels.launch import Variant, check, check_indices, check_tensor, next_power_of_2
from tempo_kernels.rounding import rounded

DTYPES = (torch.float32, torch.bfloat16)
MAX_WIDTH = 16384
# One program a segment, and few segments: the latency of one row counts, not the throughput. Eight
# values a thread at 2048, so that one load of bfloat16 is in flight for each tensor; not measured.
NUM_WARPS = 8


@triton.jit
def score_segment(
    i_s,
    p_hidden,
    p_index,
    p_weight,
    p_direction,
    T,
    eps,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """The relevance of segment i_s, float32."""
    dtype: tl.constexpr = p_hidden.dtype.element_ty
    row = tl.load(p_index + i_s)
    m_row = (row >= 0) & (row < T)
    i_d = tl.arange(0, BLOCK_D)
    m_d = i_d < D
    m_x = i_d < tl.where(m_row, D, 0)
    # [BLOCK_D]
    b_x = tl.load(p_hidden + row * D + i_d, mask=m_x, other=0.0).to(tl.float32)
    b_weight = tl.load(p_weight + i_d, mask=m_d, other=0.0).to(tl.float32)
    b_direction = tl.load(p_direction + i_d, mask=m_d, other=0.0)
    b_y = rounded(b_x * tl.rsqrt(tl.sum(b_x * b_x) / D + eps), dtype)
    score = tl.sum(rounded(b_y * b_weight, dtype) * b_direction)
    return tl.where(m_row, tl.sigmoid(score), float("nan"))


@triton.jit(do_not_specialize=["T"])
def _relevance_kernel(
    p_hidden,
    p_index,
    p_weight,
    p_direction,
    p_relevance,
    T,
    eps,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    i_s = tl.program_id(0)
    score = score_segment(i_s, p_hidden, p_index, p_weight, p_direction, T, eps, D, BLOCK_D)
    tl.store(p_relevance + i_s, score)


def check_scoring(hidden: Tensor, index: Tensor, weight: Tensor, direction: Tensor) -> None:
    """Raises ValueError unless the arguments of `relevance` fit together."""
    check_tensor("hidden", hidden, shape=(None, None), dtypes=DTYPES)
    width, where = hidden.shape[1], hidden.device
    check(0 < width <= MAX_WIDTH, f"hidden has width {width}; 1 to {MAX_WIDTH} is needed")
    check_tensor("index", index, shape=(None,), dtypes=torch.int64, device=where)
    check_tensor("weight", weight, shape=(width,), dtypes=hidden.dtype, device=where)
    check_tensor("direction", direction, shape=(width,), dtypes=torch.float32, device=where)
    check_indices("index", index, len(hidden))


def relevance(
    hidden: Tensor,
    index: Tensor,
    weight: Tensor,
    direction: Tensor,
    eps: float,
    *,
    out: Tensor | None = None,
) -> Tensor:
    """Relevance float32 [S] of hidden [T, D] at index int64 [S]; see the module.

    out: float32 [S] to write to. Raises ValueError for arguments that don't fit together.
    """
    check_scoring(hidden, index, weight, direction)
    width, where = hidden.shape[1], hidden.device
    segments = len(index)
    if out is None:
        out = torch.empty(segments, dtype=torch.float32, device=where)
    else:
        check_tensor("out", out, shape=(segments,), dtypes=torch.float32, device=where)
    if segments:
        _relevance_kernel[(segments,)](
            hidden,
            index,
            weight,
            direction,
            out,
            len(hidden),
            eps,
            D=width,
            BLOCK_D=next_power_of_2(width),
            num_warps=NUM_WARPS,
        )
    return out


def relevance_ref(
    hidden: Tensor, index: Tensor, weight: Tensor, direction: Tensor, eps: float
) -> Tensor:
    """The same in plain PyTorch, on any device; an index out of range is an IndexError there."""
    x = hidden.index_select(0, index).float()
    y = (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)).to(hidden.dtype)
    return torch.sigmoid((weight * y).float() @ direction)


def variants() -> list[Variant]:
    """What the engine launches for Tempo-6B."""
    width = 2048
    return [
        Variant(
            name=f"{dtype}, D {width}",
            kernel=_relevance_kernel,
            signature={
                "p_hidden": f"*{dtype}",
                "p_index": "*i64",
                "p_weight": f"*{dtype}",
                "p_direction": "*fp32",
                "p_relevance": "*fp32",
                "T": "i32",
                "eps": "fp32",
            },
            constants={"D": width, "BLOCK_D": next_power_of_2(width)},
            divisible=("p_hidden", "p_index", "p_weight", "p_direction", "p_relevance"),
            num_warps=NUM_WARPS,
            narrow_store="one score a segment",
        )
        for dtype in ("bf16", "fp32")
    ]
