"""Adds visual features to the hidden states at the places of the visual tokens.

    hidden[index[v]] = round(hidden[index[v]] + features[v])

hidden: [T, D], changed in place; features: [V, D]; bfloat16 or float32, added in float32 and
rounded to the dtype once. index: int64 [V], sorted and without repetition, so that no two programs
write one row. An index outside 0…T−1, which no launcher sees on a GPU without waiting, is left out.

Source: DeepStack (arXiv 2406.04334), as in Qwen3-VL.
"""

from __future__ import annotations

import torch

from tempo_kernels.language import tl, triton
from tempo_kernels.launch import Variant, check, check_indices, check_tensor
from tempo_kernels.rounding import rounded

DTYPES = (torch.bfloat16, torch.float32)
# 16 values a thread of each operand: four 16-byte loads in flight in bfloat16.
BLOCK_D = 2048
WARPS = 4


@triton.jit(do_not_specialize=["rows"])
def _deepstack_add_kernel(hidden, index, features, rows, D: tl.constexpr, BLOCK_D: tl.constexpr):
    dtype: tl.constexpr = hidden.dtype.element_ty
    blocks: tl.constexpr = (D + BLOCK_D - 1) // BLOCK_D
    i_v = (tl.program_id(0) // blocks).to(tl.int64)
    o_d = tl.program_id(0) % blocks * BLOCK_D + tl.arange(0, BLOCK_D)
    m = o_d < D
    i_t = tl.load(index + i_v)
    # [BLOCK_D]
    b_features = tl.load(features + i_v * D + o_d, mask=m, other=0.0).to(tl.float32)
    if (i_t >= 0) & (i_t < rows):
        p_hidden = hidden + i_t * D + o_d
        # [BLOCK_D]
        b_hidden = tl.load(p_hidden, mask=m, other=0.0).to(tl.float32)
        tl.store(p_hidden, rounded(b_hidden + b_features, dtype), mask=m)


def deepstack_add(
    hidden: torch.Tensor, index: torch.Tensor, features: torch.Tensor
) -> torch.Tensor:
    """Add features [V, D] to the rows `index` [V] of hidden [T, D] in place; return hidden.

    Raises ValueError for shapes, strides, dtypes, devices or indices that don't fit.
    """
    check_tensor("hidden", hidden, shape=(None, None), dtypes=DTYPES)
    rows, width = hidden.shape
    check_tensor("index", index, shape=(None,), dtypes=torch.int64, device=hidden.device)
    count = index.shape[0]
    check_tensor(
        "features", features, shape=(count, width), dtypes=hidden.dtype, device=hidden.device
    )
    check(count <= rows, f"index has {count} places in {rows} rows: some are repeated")
    check_indices("index", index, rows)
    if features.numel():
        grid = (count * triton.cdiv(width, BLOCK_D),)
        _deepstack_add_kernel[grid](
            hidden, index, features, rows, D=width, BLOCK_D=BLOCK_D, num_warps=WARPS
        )
    return hidden


def deepstack_add_ref(
    hidden: torch.Tensor, index: torch.Tensor, features: torch.Tensor
) -> torch.Tensor:
    """`deepstack_add` in plain PyTorch; it refuses an index out of range."""
    return hidden.index_add_(0, index, features)


def variants() -> list[Variant]:
    """The compressor's width."""
    tensors = ("hidden", "features")
    return [
        Variant(
            f"{dtype}, D 2048",
            _deepstack_add_kernel,
            dict.fromkeys(tensors, f"*{dtype}") | {"index": "*i64", "rows": "i32"},
            {"D": 2048, "BLOCK_D": BLOCK_D},
            (*tensors, "index"),
            num_warps=WARPS,
        )
        for dtype in ("bf16", "fp32")
    ]
