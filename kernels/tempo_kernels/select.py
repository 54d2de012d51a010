"""Selection: the memory tokens that each segment keeps, normalised and packed in one launch.

    row r of out = norm(memory[i, j])   i: the segment with offsets[i] <= r < offsets[i + 1]
                                        j: r - offsets[i] ("head"), counted from M - k_i ("tail")
    norm(x) = round(round(x · rsqrt(mean(x²) + eps)) · weight), or x

memory: [S, M, D]. allocations: int64 [S], k. offsets: int64 [S + 1], their running sum. weight:
[D], as memory. out: [total, D], as memory. Float32 or bfloat16; S up to 4096.

Rounds to the dtype twice, where the published model's RMSNorm does; moves bits without the norm.

What no launcher sees on a GPU without waiting: a row of out that has no source, because Σ k is
under `total` or k_i over M, comes out as NaN; of Σ k over `total` the first rows are written.

Source: the published code keeps the first k_i of a segment's memory tokens (`head`), its ablation
the last (`tail`).
"""

from __future__ import annotations

from itertools import product
from typing import Literal

import torch
from torch import Tensor

from tempo_kernels.language import tl, triton
from tempo_kernels.launch import Variant, check, check_indices, check_tensor, next_power_of_2
from tempo_kernels.packing import MAX_SEGMENTS, SEARCHES, owner, search
from tempo_kernels.rounding import rounded

DTYPES = (torch.float32, torch.bfloat16)
MAX_WIDTH = 16384
Take = Literal["head", "tail"]


def _configuration(width: int) -> tuple[int, int, int]:
    """(ROWS, BLOCK_D, warps): up to four rows, 32 values a thread, all loads in flight at once."""
    block = next_power_of_2(width)
    rows = max(1, min(4, 8192 // block))
    return rows, block, max(1, min(16, rows * block // 1024))


@triton.jit(do_not_specialize=["S", "tokens", "total"])
def _select_kernel(
    p_memory,
    p_allocations,
    p_offsets,
    p_weight,
    p_out,
    S,
    tokens,
    total,
    stride_s,
    stride_m,
    eps,
    D: tl.constexpr,
    TAIL: tl.constexpr,
    NORMALIZE: tl.constexpr,
    FANOUT: tl.constexpr,
    SPAN: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    dtype: tl.constexpr = p_memory.dtype.element_ty
    # [ROWS]
    i_row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    m_row = i_row < total
    i_s = owner(i_row, p_offsets, S, FANOUT, SPAN)
    m_s = m_row & (i_s >= 0)
    b_k = tl.load(p_allocations + i_s, mask=m_s, other=0)
    i_kept = i_row - tl.load(p_offsets + i_s, mask=m_s, other=0)
    m_source = m_s & (i_kept < b_k)
    i_m = i_kept + tokens - b_k if TAIL else i_kept
    m_source = m_source & (i_m >= 0) & (i_m < tokens)
    o_source = i_s.to(tl.int64) * stride_s + i_m * stride_m

    i_d = tl.arange(0, BLOCK_D)
    m_d = i_d < D
    # [ROWS, BLOCK_D]
    b_x = tl.load(
        p_memory + o_source[:, None] + i_d[None, :],
        mask=m_source[:, None] & m_d[None, :],
        other=float("nan"),
    )
    p_row = p_out + i_row[:, None] * D + i_d[None, :]
    m_out = m_row[:, None] & m_d[None, :]
    if NORMALIZE:
        b_x = tl.where(m_d[None, :], b_x.to(tl.float32), 0.0)
        # [BLOCK_D]
        b_weight = tl.load(p_weight + i_d, mask=m_d, other=0.0).to(tl.float32)
        b_scale = tl.rsqrt(tl.sum(b_x * b_x, axis=1) / D + eps)
        b_x = rounded(b_x * b_scale[:, None], dtype) * b_weight[None, :]
        tl.store(p_row, rounded(b_x, dtype), mask=m_out)
    else:
        tl.store(p_row, b_x, mask=m_out)


def select(
    memory: Tensor,
    allocations: Tensor,
    offsets: Tensor,
    weight: Tensor,
    eps: float,
    *,
    total: int,
    take: Take = "head",
    normalize: bool = True,
    out: Tensor | None = None,
) -> Tensor:
    """The kept memory tokens [total, D]; see the module.

    memory may be a view whose last dimension alone is contiguous. total: Σ allocations, which the
    caller has read. out: to write to. Raises ValueError for arguments that don't fit together.
    """
    _check(memory, allocations, offsets, weight, total, take)
    segments, tokens, width = memory.shape
    if out is None:
        out = torch.empty(total, width, dtype=memory.dtype, device=memory.device)
    else:
        check_tensor("out", out, shape=(total, width), dtypes=memory.dtype, device=memory.device)
    if total:
        rows, block, warps = _configuration(width)
        _select_kernel[(triton.cdiv(total, rows),)](
            memory,
            allocations,
            offsets,
            weight,
            out,
            segments,
            tokens,
            total,
            memory.stride(0),
            memory.stride(1),
            eps,
            D=width,
            TAIL=take == "tail",
            NORMALIZE=normalize,
            **search(segments),
            ROWS=rows,
            BLOCK_D=block,
            num_warps=warps,
        )
    return out


def _check(
    memory: Tensor,
    allocations: Tensor,
    offsets: Tensor,
    weight: Tensor,
    total: int,
    take: str,
) -> None:
    """Raises ValueError unless the arguments fit together."""
    check_tensor("allocations", allocations, shape=(None,), dtypes=torch.int64)
    segments, where = len(allocations), allocations.device
    check(
        1 <= segments <= MAX_SEGMENTS,
        f"allocations has {segments} segments; 1 to {MAX_SEGMENTS} is needed",
    )
    check_tensor("offsets", offsets, shape=(segments + 1,), dtypes=torch.int64, device=where)
    shape = (segments, None, None)
    check_tensor("memory", memory, shape=shape, dtypes=DTYPES, device=where, contiguous=False)
    width = memory.shape[-1]
    check(0 < width <= MAX_WIDTH, f"memory has width {width}; 1 to {MAX_WIDTH} is needed")
    check(
        memory.stride(-1) == 1 or width == 1,
        f"memory has strides {memory.stride()}; a contiguous last dimension is needed",
    )
    check_tensor("weight", weight, shape=(width,), dtypes=memory.dtype, device=where)
    check(total >= 0, f"total is {total}; at least 0 is needed (-1: relevance was not finite)")
    check_indices("allocations", allocations, memory.shape[1] + 1)
    check_indices("offsets", offsets, segments * memory.shape[1] + 1)
    check(take in ("head", "tail"), f"take is {take!r}; 'head' or 'tail' is needed")


def select_ref(
    memory: Tensor,
    allocations: Tensor,
    offsets: Tensor,
    weight: Tensor,
    eps: float,
    *,
    total: int,
    take: Take = "head",
    normalize: bool = True,
) -> Tensor:
    """The same in plain PyTorch, on any device; total must be Σ allocations."""
    segment = torch.repeat_interleave(allocations, output_size=total)
    place = torch.arange(total, device=segment.device) - offsets[segment]
    if take == "tail":
        place = place + (memory.shape[1] - allocations)[segment]
    x = memory.flatten(0, 1).index_select(0, segment * memory.shape[1] + place)
    if not normalize:
        return x
    wide = x.float()
    scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return weight * (wide * scale).to(x.dtype)


def variants() -> list[Variant]:
    """What the engine launches for Tempo-6B: head with the norm; tail and bare besides."""
    width = 2048
    rows, block, warps = _configuration(width)
    kinds = {  # name: (TAIL, NORMALIZE)
        "head": (False, True),
        "tail": (True, True),
        "bare": (False, False),
    }
    found = []
    for dtype, kind, (limit, constants) in product(("bf16", "fp32"), kinds, SEARCHES):
        tail, normalize = kinds[kind]
        signature = {
            "p_memory": f"*{dtype}",
            "p_allocations": "*i64",
            "p_offsets": "*i64",
            "p_weight": f"*{dtype}",
            "p_out": f"*{dtype}",
            **dict.fromkeys(("S", "tokens", "total", "stride_s", "stride_m"), "i32"),
            "eps": "fp32",
        }
        numbers = {"D": width, "ROWS": rows, "BLOCK_D": block, **constants}
        flags = {"TAIL": tail, "NORMALIZE": normalize}
        found.append(
            Variant(
                name=f"{dtype}, D {width}, {kind}, S to {limit}",
                kernel=_select_kernel,
                signature=signature,
                constants=numbers | flags,
                divisible=("p_memory", "p_weight", "p_out", "stride_s", "stride_m"),
                num_warps=warps,
            )
        )
    return found
