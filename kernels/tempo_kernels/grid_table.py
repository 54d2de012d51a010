"""The vision encoder's square position table, resized bilinearly to a grid of patches.

    at(i) = i (side − 1) / (size − 1), low = floor(at), high = min(low + 1, side − 1), d = at − low
    out = (((1−dy)(1−dx) table[top, left] + (1−dy) dx table[top, right])
           + dy (1−dx) table[bottom, left]) + dy dx table[bottom, right]

table: [side², D], row by row, bfloat16 or float32; out: [h · w, D] in merge-block order: blocks of
merge × merge patches row by row, and row by row within one. `at` is torch.linspace's float32 and
the shares are float32; each share, each product and each sum is rounded to the dtype, from left to
right, where PyTorch's operations round, and no multiply-add is fused. Corners stay in place.

Made once per grid and kept; one pass. Source: Qwen3-VL's vision encoder.
"""

from __future__ import annotations

from math import isqrt

import torch

from tempo_kernels.language import tl, triton
from tempo_kernels.launch import Variant, check, check_tensor
from tempo_kernels.rounding import rounded

DTYPES = (torch.bfloat16, torch.float32)
# 8 values a thread of each of four rows: a 16-byte load each in bfloat16.
BLOCK_D = 1024
WARPS = 4


@triton.jit
def _grid_table_kernel(
    table,
    rows_at,
    columns_at,
    out,
    side,
    columns,
    D: tl.constexpr,
    MERGE: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    dtype: tl.constexpr = table.dtype.element_ty
    i_patch = tl.program_id(0)
    o_d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    m = o_d < D
    i_block, i_within = i_patch // (MERGE * MERGE), i_patch % (MERGE * MERGE)
    across = columns // MERGE
    i_row = i_block // across * MERGE + i_within // MERGE
    i_column = i_block % across * MERGE + i_within % MERGE

    y = tl.load(rows_at + i_row)
    x = tl.load(columns_at + i_column)
    top, left = y.to(tl.int32), x.to(tl.int32)
    bottom, right = tl.minimum(top + 1, side - 1), tl.minimum(left + 1, side - 1)
    dy, dx = y - top.to(tl.float32), x - left.to(tl.float32)
    # [BLOCK_D] four times
    b_tl = tl.load(table + (top * side + left).to(tl.int64) * D + o_d, mask=m).to(tl.float32)
    b_tr = tl.load(table + (top * side + right).to(tl.int64) * D + o_d, mask=m).to(tl.float32)
    b_bl = tl.load(table + (bottom * side + left).to(tl.int64) * D + o_d, mask=m).to(tl.float32)
    b_br = tl.load(table + (bottom * side + right).to(tl.int64) * D + o_d, mask=m).to(tl.float32)
    b_sum = rounded(b_tl * rounded((1.0 - dy) * (1.0 - dx), dtype), dtype)
    b_sum = rounded(b_sum + rounded(b_tr * rounded((1.0 - dy) * dx, dtype), dtype), dtype)
    b_sum = rounded(b_sum + rounded(b_bl * rounded(dy * (1.0 - dx), dtype), dtype), dtype)
    b_sum = rounded(b_sum + rounded(b_br * rounded(dy * dx, dtype), dtype), dtype)
    tl.store(out + i_patch.to(tl.int64) * D + o_d, b_sum, mask=m)


def grid_table(
    table: torch.Tensor, h: int, w: int, *, merge: int, out: torch.Tensor | None = None
) -> torch.Tensor:
    """The table [side², D] resized to [h · w, D] in merge-block order, into `out` if given.

    Raises ValueError for shapes, strides, dtypes or devices that don't fit, for a table that is not
    square and for h and w that are not positive multiples of merge.
    """
    check_tensor("table", table, shape=(None, None), dtypes=DTYPES)
    positions, width = table.shape
    side = isqrt(positions)
    check(side > 0 and side * side == positions, f"table has {positions} rows; a square is needed")
    for name, size in (("merge", merge), ("h", h), ("w", w)):
        check(
            isinstance(size, int) and size > 0 and size % merge == 0,
            f"{name} is {size!r}; a positive multiple of merge ({merge!r}) is needed",
        )
    if out is None:
        out = table.new_empty(h * w, width)
    else:
        check_tensor("out", out, shape=(h * w, width), dtypes=table.dtype, device=table.device)
    if width:
        rows_at, columns_at = _places(side, h, w, table.device)
        _grid_table_kernel[(h * w, triton.cdiv(width, BLOCK_D))](
            table,
            rows_at,
            columns_at,
            out,
            side,
            w,
            D=width,
            MERGE=merge,
            BLOCK_D=BLOCK_D,
            num_warps=WARPS,
            enable_fp_fusion=False,
        )
    return out


def _places(side: int, h: int, w: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Where the rows [h] and columns [w] of a grid lie in the table: float32, 0…side−1."""
    y, x = (torch.linspace(0, side - 1, size, device=device) for size in (h, w))
    return y, x


def grid_table_ref(table: torch.Tensor, h: int, w: int, *, merge: int) -> torch.Tensor:
    """`grid_table` in plain PyTorch."""
    side = isqrt(table.shape[0])
    square = table.view(side, side, -1)
    corners = []
    for at in _places(side, h, w, table.device):
        low = at.long()
        corners.append((low, (low + 1).clamp_(max=side - 1), at - low))
    (top, bottom, dy), (left, right, dx) = corners
    dy, dx = dy[:, None], dx[None]
    parts = (
        (top, left, (1 - dy) * (1 - dx)),
        (top, right, (1 - dy) * dx),
        (bottom, left, dy * (1 - dx)),
        (bottom, right, dy * dx),
    )
    first, *rest = (
        square[rows[:, None], columns] * share[..., None].to(table.dtype)
        for rows, columns, share in parts
    )
    blocks = sum(rest, first).reshape(h // merge, merge, w // merge, merge, -1)
    return blocks.transpose(1, 2).reshape(h * w, -1)


def variants() -> list[Variant]:
    """Tempo-6B's 48 × 48 table of width 1024, blocks of 2 × 2."""
    tensors = ("table", "rows_at", "columns_at", "out")
    return [
        Variant(
            dtype,
            _grid_table_kernel,
            {"table": f"*{dtype}", "rows_at": "*fp32", "columns_at": "*fp32", "out": f"*{dtype}"}
            | {"side": "i32", "columns": "i32"},
            {"D": 1024, "MERGE": 2, "BLOCK_D": BLOCK_D},
            (*tensors, "side"),
            num_warps=WARPS,
            fp_fusion=False,
        )
        for dtype in ("bf16", "fp32")
    ]
