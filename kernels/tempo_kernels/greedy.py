"""The largest logit of each row.

    greedy[b] = argmax_v logits[b, v], the lowest v of equals

logits: [B, V], bfloat16 or float32; a NaN counts as the largest, as in torch. Nothing is rounded.
Two launches, neither waiting for the host: the largest of each block of a row, and of those. Value
and index travel as one 64-bit number, the value as an integer of the same order.

Source: torch's argmax. `order`, `flip`, `row_largest` and `find_largest` also begin `sample.py`.
"""

from __future__ import annotations

import torch

from tempo_kernels.language import tl, triton
from tempo_kernels.launch import Variant, check, check_tensor, next_power_of_2

DTYPES = (torch.bfloat16, torch.float32)
# 32 values a thread: four 16-byte loads in bfloat16.
BLOCK_V = 4096
WARPS = 4
MAX_VOCABULARY = 1 << 22

_NONE = tl.constexpr(-(1 << 63))
_MAX32 = tl.constexpr((1 << 31) - 1)


@triton.jit
def flip(b_bits):
    """Bits of float32 to int32 in the same order, and back."""
    return b_bits ^ ((b_bits >> 31) & _MAX32)


@triton.jit
def order(b_x):
    """float32 to int32 in the same order; −0 as 0, and NaN over all, as torch's argmax has it."""
    b_x = tl.where(b_x == 0.0, 0.0, b_x)
    return tl.where(b_x == b_x, flip(b_x.to(tl.int32, bitcast=True)), _MAX32)


@triton.jit
def _largest_kernel(
    logits, largest, masses, V, MASSES: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_M: tl.constexpr
):
    """largest: int64 [B, blocks], order in the high half, the token's complement in the low."""
    i_b = tl.program_id(0)
    i_r = tl.program_id(1).to(tl.int64)
    o_v = i_b * BLOCK_V + tl.arange(0, BLOCK_V)
    m_v = o_v < V
    # [BLOCK_V]
    b_x = tl.load(logits + i_r * V + o_v, mask=m_v, other=0.0).to(tl.float32)
    b_packed = (order(b_x).to(tl.int64) << 32) | (2147483647 - o_v).to(tl.int64)
    b_packed = tl.where(m_v, b_packed, _NONE)
    tl.store(largest + i_r * tl.num_programs(0) + i_b, tl.max(b_packed, axis=0))
    if MASSES > 0 and i_b == 0:
        o_m = tl.arange(0, BLOCK_M)
        zero = tl.zeros((BLOCK_M,), tl.int64)
        tl.store(masses + i_r * MASSES + o_m, zero, mask=o_m < MASSES)


@triton.jit
def row_largest(largest, i_r, blocks, BLOCK_B: tl.constexpr):
    o_b = tl.arange(0, BLOCK_B)
    # [BLOCK_B]
    b_packed = tl.load(largest + i_r * blocks + o_b, mask=o_b < blocks, other=_NONE)
    return tl.max(b_packed, axis=0)


@triton.jit
def _greedy_kernel(largest, tokens, blocks, BLOCK_B: tl.constexpr):
    i_r = tl.program_id(0).to(tl.int64)
    packed = row_largest(largest, i_r, blocks, BLOCK_B)
    tl.store(tokens + i_r, 2147483647 - (packed & 0xFFFFFFFF))


def check_logits(logits: torch.Tensor, out: torch.Tensor | None) -> torch.Tensor:
    """`out`, or new; raises ValueError where logits or out don't fit."""
    check_tensor("logits", logits, shape=(None, None), dtypes=DTYPES)
    rows, vocabulary = logits.shape
    check(
        0 < vocabulary <= MAX_VOCABULARY and rows < 1 << 16,
        f"logits has shape {list(logits.shape)}; at most 65535 rows of 1 to {MAX_VOCABULARY}"
        " are needed",
    )
    if out is None:
        return torch.empty(rows, dtype=torch.int64, device=logits.device)
    check_tensor("out", out, shape=(rows,), dtypes=torch.int64, device=logits.device)
    return out


def find_largest(
    logits: torch.Tensor, block: int, masses: torch.Tensor | None
) -> tuple[torch.Tensor, int, int]:
    """The largest of each block [B, blocks], their number, and the tile that holds them."""
    rows, vocabulary = logits.shape
    blocks = triton.cdiv(vocabulary, block)
    largest = torch.empty((rows, blocks), dtype=torch.int64, device=logits.device)
    count = 0 if masses is None else masses.shape[1]
    _largest_kernel[blocks, rows](
        logits,
        largest,
        masses,
        vocabulary,
        MASSES=count,
        BLOCK_V=block,
        BLOCK_M=next_power_of_2(max(count, 1)),
        num_warps=WARPS,
    )
    return largest, blocks, next_power_of_2(blocks)


def greedy(logits: torch.Tensor, *, out: torch.Tensor | None = None) -> torch.Tensor:
    """The largest of each row of logits [B, V], the lowest index of equals: int64 [B].

    Into `out` if given. Raises ValueError for shapes, strides, dtypes or devices that don't fit.
    """
    out = check_logits(logits, out)
    if len(logits):
        largest, blocks, tile = find_largest(logits, BLOCK_V, None)
        _greedy_kernel[len(logits),](largest, out, blocks, BLOCK_B=tile, num_warps=WARPS)
    return out


def greedy_ref(logits: torch.Tensor) -> torch.Tensor:
    """`greedy` in plain PyTorch: argmax alone leaves open which of equals it takes."""
    largest = logits.amax(-1, keepdim=True)
    # A NaN is the largest, as for argmax, though it equals nothing.
    is_largest = (logits == largest) | logits.isnan()
    number = torch.arange(logits.shape[-1], device=logits.device)
    return torch.where(is_largest, number, logits.shape[-1]).amin(-1)


def largest_variant(name: str, dtype: str, masses: int, block: int) -> Variant:
    """The first launch of greedy (masses 0) or sample."""
    pointers = {"logits": f"*{dtype}", "largest": "*i64"}
    constants = {"MASSES": masses, "BLOCK_V": block, "BLOCK_M": next_power_of_2(max(masses, 1))}
    if masses:
        pointers["masses"] = "*i64"
    else:
        constants["masses"] = None
    return Variant(
        name,
        _largest_kernel,
        pointers | {"V": "i32"},
        constants,
        (*pointers, "V"),
        num_warps=WARPS,
        narrow_store="" if masses else "one number a block of logits",
    )


def variants() -> list[Variant]:
    """The language model's vocabulary."""
    blocks = triton.cdiv(151936, BLOCK_V)
    found = [largest_variant(f"{dtype}, blocks", dtype, 0, BLOCK_V) for dtype in ("bf16", "fp32")]
    found.append(
        Variant(
            "rows",
            _greedy_kernel,
            {"largest": "*i64", "tokens": "*i64", "blocks": "i32"},
            {"BLOCK_B": next_power_of_2(blocks)},
            ("tokens",),
            num_warps=WARPS,
            narrow_load="a row of 38 values, which needn't begin at a multiple of 16 bytes",
            narrow_store="one token a row",
        )
    )
    return found
