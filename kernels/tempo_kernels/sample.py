"""The next token from its logits, drawn at a temperature from the top-p nucleus.

    weight[v] = exp((logits[v] − max) / temperature)
    nucleus = the fewest tokens, most probable first and the lowest v of equals first, whose weights
              sum to top_p · Σ weight or more
    sample[b] = the first v with Σ over nucleus tokens up to v of weight > uniform[b] · Σ over all

logits: [B, V], bfloat16 or float32, finite or −inf; top_p rounded to float32; weights float32. Sums
are float32 within 1,024 tokens and 40-bit fixed point or float64 across them, in an order that does
not change: equal inputs give equal tokens. A drawn token differs from exact arithmetic's only where
uniform falls within rounding (some 1e-6) of the border between two tokens.

The nucleus is found without a sort, by bisecting the least logit in it, 64-fold a launch, over the
bits of the logits in the order of their values: 3 launches for bfloat16, 6 for float32. Nothing
waits for the host, and every launch can be captured in a graph (temperature and top_p with it).

Source: Holtzman et al. 2020 (arXiv 1904.09751); the rule of equals is a stable sort's.
"""

from __future__ import annotations

import math

import torch

from tempo_kernels.greedy import (
    check_logits,
    find_largest,
    flip,
    largest_variant,
    order,
    row_largest,
)
from tempo_kernels.language import tl, triton
from tempo_kernels.launch import Variant, check, check_tensor, next_power_of_2

# Few enough that one row keeps every multiprocessor of a large GPU busy.
BLOCK_V = 1024
WARPS = 4
# Of less, which is denormal or 0 in float32, a GPU may leave nothing.
LEAST_TOP_P = torch.finfo(torch.float32).tiny

_LEVEL_BITS = tl.constexpr(6)
_LEVELS = tl.constexpr(64)  # thresholds that one launch tries
_GROUP = tl.constexpr(8)  # of them at a time
_FIXED = tl.constexpr(float(1 << 40))


@triton.jit
def _row_max(largest, i_r, blocks, BLOCK_B: tl.constexpr):
    """The largest logit of a row."""
    of_max = (row_largest(largest, i_r, blocks, BLOCK_B) >> 32).to(tl.int32)
    return flip(of_max).to(tl.float32, bitcast=True)


@triton.jit
def _weight(b_x, x_max, inverse):
    return tl.exp((b_x - x_max) * inverse)


@triton.jit
def _nucleus(p_masses, done, top_p, BITS: tl.constexpr, PASSES: tl.constexpr):
    """What `done` launches found: the least logit of the nucleus, in order and as a range.

    Returns (least, over, target): the nucleus's least logit is at `least` or less than a step
    above it (from 0 on, 64 bits); the fixed-point sum of weights above the step; and the sum that
    the nucleus must reach.
    """
    o_k = tl.arange(0, _LEVELS)
    least = tl.full((), 0, tl.int64)
    over = tl.full((), 0, tl.int64)
    target = tl.full((), 0.0, tl.float64)
    for i_p in range(done):
        # [LEVELS], falling
        b_mass = tl.load(p_masses + i_p * _LEVELS + o_k)
        if i_p == 0:
            target = tl.max(b_mass, axis=0).to(tl.float64) * top_p
        b_enough = b_mass.to(tl.float64) >= target
        level = tl.maximum(tl.sum(b_enough.to(tl.int32), axis=0) - 1, 0)
        least += level.to(tl.int64) << (32 - BITS + _LEVEL_BITS * (PASSES - 1 - i_p))
        next_mass = tl.sum(tl.where(o_k == level + 1, b_mass, 0), axis=0)
        over = tl.where(level + 1 < _LEVELS, next_mass, over)
    return least, over, target


@triton.jit
def _signed(least):
    """An order from 0 on to the signed one, beyond every logit if it is."""
    return tl.minimum(least - 2147483648, 2147483647).to(tl.int32)


@triton.jit(do_not_specialize=["i_p"])
def _mass_kernel(
    logits,
    largest,
    masses,
    V,
    i_p,
    inverse,
    top_p,
    BITS: tl.constexpr,
    PASSES: tl.constexpr,
    BLOCK_V: tl.constexpr,
    BLOCK_B: tl.constexpr,
):
    """Adds to masses[row, i_p, k] the weights of logits that reach threshold k."""
    i_r = tl.program_id(1).to(tl.int64)
    blocks = tl.num_programs(0)
    o_v = tl.program_id(0) * BLOCK_V + tl.arange(0, BLOCK_V)
    # [BLOCK_V]
    b_x = tl.load(logits + i_r * V + o_v, mask=o_v < V, other=float("-inf")).to(tl.float32)
    b_weight = _weight(b_x, _row_max(largest, i_r, blocks, BLOCK_B), inverse)
    b_order = order(b_x)
    p_masses = masses + i_r * (PASSES * _LEVELS)
    least, _, _ = _nucleus(p_masses, i_p, top_p, BITS, PASSES)
    shift = 32 - BITS + _LEVEL_BITS * (PASSES - 1 - i_p)
    for i_k in range(0, _LEVELS, _GROUP):
        o_k = i_k + tl.arange(0, _GROUP)
        b_threshold = _signed(least + (o_k.to(tl.int64) << shift))
        # [GROUP, BLOCK_V]
        b_reach = b_order[None, :] >= b_threshold[:, None]
        b_mass = tl.sum(tl.where(b_reach, b_weight[None, :], 0.0), axis=1)
        # Whole numbers add up to the same sum in any order.
        b_fixed = (b_mass * _FIXED).to(tl.int64)
        tl.atomic_add(p_masses + i_p * _LEVELS + o_k, b_fixed, sem="relaxed")


@triton.jit
def _blocks_kernel(
    logits,
    largest,
    masses,
    over,
    ties,
    V,
    inverse,
    top_p,
    BITS: tl.constexpr,
    PASSES: tl.constexpr,
    DONE: tl.constexpr,
    BLOCK_V: tl.constexpr,
    BLOCK_B: tl.constexpr,
):
    """over, ties: float32 and int32 [B, blocks], the weights above and the logits at the least."""
    i_b = tl.program_id(0)
    i_r = tl.program_id(1).to(tl.int64)
    blocks = tl.num_programs(0)
    o_v = i_b * BLOCK_V + tl.arange(0, BLOCK_V)
    m_v = o_v < V
    # [BLOCK_V]
    b_x = tl.load(logits + i_r * V + o_v, mask=m_v, other=float("-inf")).to(tl.float32)
    b_weight = _weight(b_x, _row_max(largest, i_r, blocks, BLOCK_B), inverse)
    b_order = order(b_x).to(tl.int64) + 2147483648
    least, _, _ = _nucleus(masses + i_r * (PASSES * _LEVELS), DONE, top_p, BITS, PASSES)
    m_over = b_order >= least + (1 << (32 - BITS))
    m_tie = (b_order >= least) & ~m_over & m_v
    tl.store(over + i_r * blocks + i_b, tl.sum(tl.where(m_over, b_weight, 0.0), axis=0))
    tl.store(ties + i_r * blocks + i_b, tl.sum(m_tie.to(tl.int32), axis=0))


@triton.jit
def _draw_kernel(
    logits,
    largest,
    masses,
    over,
    ties,
    uniform,
    tokens,
    V,
    blocks,
    inverse,
    top_p,
    BITS: tl.constexpr,
    PASSES: tl.constexpr,
    DONE: tl.constexpr,
    BLOCK_V: tl.constexpr,
    BLOCK_B: tl.constexpr,
):
    i_r = tl.program_id(0).to(tl.int64)
    x_max = _row_max(largest, i_r, blocks, BLOCK_B)
    least, mass_over, target = _nucleus(
        masses + i_r * (PASSES * _LEVELS), DONE, top_p, BITS, PASSES
    )
    # A bfloat16 has zeros in its low half, also where its order has ones.
    tie_bits = flip(_signed(least)) & (-1 << (32 - BITS))
    tie = _weight(tie_bits.to(tl.float32, bitcast=True), x_max, inverse)
    tie = tl.where(DONE > 0, tie, 0.0)
    # Of the logits at the least, as many as the target still needs.
    lacking = target - mass_over.to(tl.float64)
    needed = tl.ceil(lacking / tl.maximum(tie.to(tl.float64) * _FIXED, 1e-30))
    keep = tl.minimum(tl.maximum(needed, 1.0), 2147483647.0).to(tl.int32)

    o_b = tl.arange(0, BLOCK_B)
    m_b = o_b < blocks
    # [BLOCK_B]
    b_ties = tl.load(ties + i_r * blocks + o_b, mask=m_b, other=0)
    b_over = tl.load(over + i_r * blocks + o_b, mask=m_b, other=0.0)
    b_before = tl.cumsum(b_ties, axis=0) - b_ties
    b_kept = tl.minimum(tl.maximum(keep - b_before, 0), b_ties)
    b_mass = b_over.to(tl.float64) + b_kept.to(tl.float64) * tie.to(tl.float64)
    b_end = tl.cumsum(b_mass, axis=0)
    point = tl.load(uniform + i_r).to(tl.float64) * tl.sum(b_mass, axis=0)
    # The first block whose end lies beyond the point, or by rounding the last that has weight.
    first = tl.min(tl.where((b_end > point) & (b_mass > 0.0), o_b, BLOCK_B), axis=0)
    last = tl.max(tl.where(b_mass > 0.0, o_b, 0), axis=0)
    i_b = tl.minimum(first, last)
    point -= tl.sum(tl.where(o_b == i_b, b_end - b_mass, 0.0), axis=0)
    before = tl.sum(tl.where(o_b == i_b, b_before, 0), axis=0)

    o_v = i_b * BLOCK_V + tl.arange(0, BLOCK_V)
    m_v = o_v < V
    # [BLOCK_V]
    b_x = tl.load(logits + i_r * V + o_v, mask=m_v, other=float("-inf")).to(tl.float32)
    b_order = order(b_x).to(tl.int64) + 2147483648
    m_over = b_order >= least + (1 << (32 - BITS))
    m_tie = (b_order >= least) & ~m_over & m_v
    b_tie = m_tie.to(tl.int32)
    m_kept = m_over | (m_tie & (before + tl.cumsum(b_tie, axis=0) - b_tie < keep))
    b_weight = tl.where(m_kept & m_v, _weight(b_x, x_max, inverse), 0.0)
    m_beyond = (tl.cumsum(b_weight, axis=0).to(tl.float64) > point) & (b_weight > 0.0)
    first = tl.min(tl.where(m_beyond, o_v, V), axis=0)
    last = tl.max(tl.where(b_weight > 0.0, o_v, 0), axis=0)
    tl.store(tokens + i_r, tl.minimum(first, last).to(tl.int64))


def _passes(bits: int) -> int:
    return -(-bits // _LEVEL_BITS.value)


def sample(
    logits: torch.Tensor,
    temperature: float,
    top_p: float,
    uniform: torch.Tensor,
    *,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """One token of each row of logits [B, V] from its nucleus, by a number in [0, 1): int64 [B].

    temperature: above 0. top_p: LEAST_TOP_P to 1 (any
    token may come). uniform: float32 [B].
    Into `out` if given. Raises ValueError for numbers out of range, and for shapes, strides, dtypes
    or devices that don't fit.
    """
    out = check_logits(logits, out)
    rows, vocabulary = logits.shape
    check_tensor("uniform", uniform, shape=(rows,), dtypes=torch.float32, device=logits.device)
    check(0 < temperature < math.inf, f"temperature is {temperature}; above 0 is needed")
    check(LEAST_TOP_P <= top_p <= 1, f"top_p is {top_p}; {LEAST_TOP_P} to 1 is needed")
    if not rows:
        return out
    bits = logits.element_size() * 8
    passes = _passes(bits)
    done = passes if top_p < 1 else 0
    device = logits.device
    masses = torch.empty((rows, passes * _LEVELS.value), dtype=torch.int64, device=device)
    largest, blocks, tile = find_largest(logits, BLOCK_V, masses)
    # Beyond the bound only equals of the largest have weight, and 0 times it must stay 0.
    inverse = min(1 / temperature, 1e30)
    common = {"BITS": bits, "PASSES": passes, "BLOCK_V": BLOCK_V, "BLOCK_B": tile}
    common["num_warps"] = WARPS
    for i_p in range(done):
        _mass_kernel[blocks, rows](
            logits, largest, masses, vocabulary, i_p, inverse, top_p, **common
        )
    over = torch.empty((rows, blocks), dtype=torch.float32, device=device)
    ties = torch.empty((rows, blocks), dtype=torch.int32, device=device)
    _blocks_kernel[blocks, rows](
        logits, largest, masses, over, ties, vocabulary, inverse, top_p, DONE=done, **common
    )
    _draw_kernel[rows,](
        logits,
        largest,
        masses,
        over,
        ties,
        uniform,
        out,
        vocabulary,
        blocks,
        inverse,
        top_p,
        DONE=done,
        **common,
    )
    return out


def sample_ref(
    logits: torch.Tensor, temperature: float, top_p: float, uniform: torch.Tensor
) -> torch.Tensor:
    """`sample` in plain PyTorch: float32 weights, float64 sums."""
    wide = logits.float()
    weight = torch.exp((wide - wide.amax(-1, keepdim=True)) / temperature).double()
    if top_p < 1:
        index = wide.argsort(dim=-1, descending=True, stable=True)
        ordered = weight.gather(-1, index)
        share = torch.tensor(top_p, dtype=torch.float32, device=logits.device).double()
        # A token stays while those before it fall short, so the first always stays.
        stays = ordered.cumsum(-1) - ordered < share * ordered.sum(-1, keepdim=True)
        weight = torch.zeros_like(weight).scatter(-1, index, ordered * stays)
    ends = weight.cumsum(-1)
    point = uniform.double()[:, None] * ends[:, -1:]
    # Rounding may leave no end beyond the point: then it is the last token with weight.
    last = (ends < ends[:, -1:]).sum(-1)
    return torch.searchsorted(ends, point, right=True)[:, 0].minimum(last)


def variants() -> list[Variant]:
    """The language model's vocabulary, from the nucleus and from all tokens."""
    vocabulary = 151936
    tile = next_power_of_2(triton.cdiv(vocabulary, BLOCK_V))
    found = []
    for dtype, bits in (("bf16", 16), ("fp32", 32)):
        passes = _passes(bits)
        common = {"BITS": bits, "PASSES": passes, "BLOCK_V": BLOCK_V, "BLOCK_B": tile}
        pointers = {"logits": f"*{dtype}", "largest": "*i64", "masses": "*i64"}
        sums = {"over": "*fp32", "ties": "*i32"}
        numbers = {"V": "i32", "inverse": "fp32", "top_p": "fp32"}
        ends = {"uniform": "*fp32", "tokens": "*i64", "blocks": "i32"}
        found.append(largest_variant(f"{dtype}, largest", dtype, passes * 64, BLOCK_V))
        narrow = {
            _mass_kernel: "sums are added atomically",
            _blocks_kernel: "two numbers a block of logits",
            _draw_kernel: "one token a row",
        }
        kernels = [(_mass_kernel, "mass", pointers | numbers | {"i_p": "i32"}, {})]
        for done in (0, passes):
            name = "nucleus" if done else "all"
            kernels += [
                (_blocks_kernel, f"{name}, blocks", pointers | sums | numbers, {"DONE": done}),
                (_draw_kernel, f"{name}, draw", pointers | sums | ends | numbers, {"DONE": done}),
            ]
        for kernel, name, signature, constants in kernels:
            divisible = tuple(n for n, kind in signature.items() if kind[0] == "*" or n == "V")
            found.append(
                Variant(
                    f"{dtype}, {name}",
                    kernel,
                    signature,
                    common | constants,
                    divisible,
                    num_warps=WARPS,
                    narrow_store=narrow[kernel],
                )
            )
    return found
