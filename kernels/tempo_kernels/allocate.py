"""Adaptive token allocation: relevance to memory tokens a segment keeps, in one program.

With s = relevance [S], budget B, M tokens a segment has, m the least it gets, in float32:

    m = max(1, B // S)  where S·m > B
    k = min(M, B // S)  for all where max s - min s < 1e-8; else
    n = (s - min s) / (max s - min s);  want = m + floor(n·(M - m))
    k = want            where Σ want <= B; else, with w = n / Σ n and E = B - S·m,
    k = m + floor(w·E), and one token more for each of the E - Σ floor(w·E) largest w, of equal ones
                        the earlier segments
    k = clamp(k, m, M)  (M where m > M)

relevance: float32 [S], S up to 4096. allocations: int64 [S], k. offsets: int64 [S + 1], where each
segment starts in the packed tokens; the last is their total, the one number that the host needs.

Rounds to float32 after every operation above, except for Σ n: n is cut to multiples of 2⁻⁵⁰ and
summed as whole numbers, so that no order of summation matters, then rounded once. (The published
code's float32 sum depends on the vector width of the CPU that runs it.) Kernel and reference hence
agree exactly, on every device. The published code also leaves the order of equal w to an unstable
sort: up to 16 segments that is the order here too.

A relevance that is NaN or infinite (or a spread that float32 cannot hold) cannot raise on the
device: every allocation is then 0 and the total is -1. Check the total when it is read.

`relevance_allocate` does the same at the end of the launch that scores; this one is for relevance
that is there already.

Source: the published code's allocation; a budget under S, which it overruns, is refused here.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tempo_kernels.language import tl, triton
from tempo_kernels.launch import Variant, check, check_tensor
from tempo_kernels.packing import MAX_SEGMENTS

# With it every sum of tokens fits an int32.
MAX_TOKENS = 2**18
# (segments, warps) of each configuration; the smallest that holds S is launched.
CONFIGURATIONS = ((128, 1), (1024, 4), (MAX_SEGMENTS, 8))


@triton.jit
def share_out(b_score, m_s, S, tokens, least, share, budget):
    """Allocations int32 [BLOCK_S] from float32 relevance, and whether it was all finite.

    m_s: which lanes are segments; the others get 0. least, share, budget: see `plan`.
    """
    finite = tl.sum((m_s & ~(tl.abs(b_score) < float("inf"))).to(tl.int32)) == 0
    b_score = tl.where(m_s, tl.where(finite, b_score, 0.0), 0.0)
    lowest = tl.min(tl.where(m_s, b_score, float("inf")))
    highest = tl.max(tl.where(m_s, b_score, float("-inf")))
    spread = highest - lowest
    finite = finite & (spread < float("inf"))
    equal = ~finite | (spread < 1e-8)
    b_n = tl.where(m_s, b_score - lowest, 0.0)
    b_n = tl.where(equal, 0.0, tl.div_rn(b_n, tl.where(equal, 1.0, spread)))
    b_k = least + tl.floor(b_n * (tokens - least).to(tl.float32)).to(tl.int32)
    if tl.sum(tl.where(m_s, b_k, 0)) > budget:
        # n is 1 at least once, so the sum is too.
        total = tl.sum((b_n * 2.0**50).to(tl.int64)).to(tl.float32) * 2.0**-50
        b_w = tl.div_rn(b_n, total)
        extra = budget - S * least
        b_extra = tl.floor(b_w * extra.to(tl.float32)).to(tl.int32)
        rest = extra - tl.sum(b_extra)
        b_k = least + b_extra + largest(b_w, m_s, rest).to(tl.int32)

    b_k = tl.minimum(tl.maximum(b_k, least), tokens)
    b_k = tl.where(equal, share, b_k)
    return tl.where(m_s, tl.where(finite, b_k, 0), 0), finite


@triton.jit
def largest(b_w, m_s, count):
    """Mask [BLOCK_S] of the `count` largest of float32 0 <= w <= 1, of equal ones the earlier."""
    # Floats that are not negative compare like their bits, and those of 1.0 need 30 of them: the
    # count-th largest is found bit by bit, in as many counts, whatever S is.
    b_key = tl.where(m_s, b_w.to(tl.int32, bitcast=True), -1)
    threshold = 0
    for i in range(30):
        trial = threshold | (1 << (29 - i))
        reached = tl.sum((b_key >= trial).to(tl.int32))
        threshold = tl.where(reached >= count, trial, threshold)
    b_above = b_key > threshold
    b_tied = b_key == threshold
    left = count - tl.sum(b_above.to(tl.int32))
    return b_above | (b_tied & (tl.cumsum(b_tied.to(tl.int32)) <= left))


@triton.jit
def write_shares(b_score, i_s, m_s, p_allocations, p_offsets, S, tokens, least, share, budget):
    """Allocations and offsets of relevance [BLOCK_S], whose lanes i_s are; else as `share_out`."""
    b_k, finite = share_out(b_score, m_s, S, tokens, least, share, budget)
    # [BLOCK_S]
    b_end = tl.cumsum(b_k)
    b_end = tl.where(i_s < S - 1, b_end, tl.where(finite, b_end, -1))
    tl.store(p_allocations + i_s, b_k.to(tl.int64), mask=m_s)
    tl.store(p_offsets + i_s, tl.zeros_like(b_k).to(tl.int64), mask=i_s == 0)
    tl.store(p_offsets + 1 + i_s, b_end.to(tl.int64), mask=m_s)


@triton.jit(do_not_specialize=["S", "tokens", "least", "share", "budget"])
def _allocate_kernel(
    p_relevance,
    p_allocations,
    p_offsets,
    S,
    tokens,
    least,
    share,
    budget,
    BLOCK_S: tl.constexpr,
):
    i_s = tl.arange(0, BLOCK_S)
    m_s = i_s < S
    # [BLOCK_S]
    b_score = tl.load(p_relevance + i_s, mask=m_s, other=0.0)
    write_shares(b_score, i_s, m_s, p_allocations, p_offsets, S, tokens, least, share, budget)


def plan(segments: int, tokens: int, budget: int, min_tokens: int) -> tuple[int, int, int]:
    """What of the rule the host knows: (least, share, budget), every number within int32.

    least: m, at most M. share: what each gets where relevance is equal. budget: at most S·M, with
    which every want is met. Raises ValueError for numbers out of range.
    """
    check(
        1 <= segments <= MAX_SEGMENTS,
        f"relevance has {segments} segments; 1 to {MAX_SEGMENTS} is needed",
    )
    check(1 <= tokens <= MAX_TOKENS, f"tokens is {tokens}; 1 to {MAX_TOKENS} is needed")
    check(min_tokens >= 1, f"min_tokens is {min_tokens}; at least 1 is needed")
    check(
        budget >= segments,
        f"a budget of {budget} is too small for {segments} segments: the least is {segments}",
    )
    share = budget // segments
    return min(min_tokens, share, tokens), min(share, tokens), min(budget, segments * tokens)


def allocate(
    relevance: Tensor, *, tokens: int, budget: int, min_tokens: int = 4
) -> tuple[Tensor, Tensor]:
    """Allocations int64 [S] and offsets int64 [S + 1] of relevance float32 [S]; see the module.

    tokens: memory tokens a segment has (M). budget: those that all may keep (B). min_tokens: the
    least a segment gets (m). Raises ValueError for a budget under S and counts out of range.
    """
    check_tensor("relevance", relevance, shape=(None,), dtypes=torch.float32)
    segments = len(relevance)
    numbers = plan(segments, tokens, budget, min_tokens)
    allocations = torch.empty(segments, dtype=torch.int64, device=relevance.device)
    offsets = torch.empty(segments + 1, dtype=torch.int64, device=relevance.device)
    block, warps = next(pair for pair in CONFIGURATIONS if segments <= pair[0])
    _allocate_kernel[(1,)](
        relevance,
        allocations,
        offsets,
        segments,
        tokens,
        *numbers,
        BLOCK_S=block,
        num_warps=warps,
    )
    return allocations, offsets


def allocate_ref(
    relevance: Tensor, *, tokens: int, budget: int, min_tokens: int = 4
) -> tuple[Tensor, Tensor]:
    """The same in plain PyTorch, on any device and without waiting for it."""
    segments = len(relevance)
    least, share, budget = plan(segments, tokens, budget, min_tokens)
    lowest = relevance.min()
    spread = relevance.max() - lowest
    finite = relevance.isfinite().all() & spread.isfinite()
    equal = ~finite | (spread < 1e-8)
    n = torch.where(equal, 0.0, (relevance - lowest) / spread)
    wants = least + torch.floor(n * (tokens - least)).long()

    total = (n * 2.0**50).long().sum().float() * 2.0**-50
    w = n / total.clamp(min=1.0)
    extra = budget - segments * least
    shares = torch.floor(w * extra).long()
    order = w.argsort(descending=True, stable=True)
    place = torch.empty_like(order).scatter_(0, order, torch.arange(segments, device=order.device))
    shares += place < extra - shares.sum()

    kept = torch.where(wants.sum() <= budget, wants, least + shares).clamp(least, tokens)
    kept = torch.where(finite, torch.where(equal, share, kept), 0)
    offsets = torch.cat((torch.zeros_like(kept[:1]), kept.cumsum(0)))
    offsets[-1] = torch.where(finite, offsets[-1], -1)
    return kept, offsets


def variants() -> list[Variant]:
    """What the engine launches for Tempo-6B: the same for every dtype and width."""
    return [
        Variant(
            name=f"S to {block}",
            kernel=_allocate_kernel,
            signature={
                "p_relevance": "*fp32",
                "p_allocations": "*i64",
                "p_offsets": "*i64",
                **dict.fromkeys(("S", "tokens", "least", "share", "budget"), "i32"),
            },
            constants={"BLOCK_S": block},
            divisible=("p_relevance", "p_allocations", "p_offsets"),
            num_warps=warps,
            narrow_load="a few hundred numbers",
            narrow_store="a few hundred numbers, one behind a first zero",
        )
        for block, warps in CONFIGURATIONS
    ]
