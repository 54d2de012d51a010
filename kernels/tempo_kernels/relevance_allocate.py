"""Relevance and adaptive token allocation in one launch: hidden states to memory tokens a segment.

    relevance = `relevance`(hidden, index, weight, direction, eps)
    allocations, offsets = `allocate`(relevance, tokens, budget, min_tokens)

Formulas, shapes, dtypes, rounding and sources are those of the two files; the results are the same
bits. A program scores a segment; the last of them to finish shares the budget out.

done: int32 [1], 0: how many programs have finished. The last one puts it back to 0, so that the
next launch, or the next replay of a recorded one, finds what it needs. Launches that may run at the
same time, on different streams, must not count in the same place: each user has a counter of its
own. With one that isn't 0 the allocations are anything.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tempo_kernels.allocate import CONFIGURATIONS, allocate_ref, plan, write_shares
from tempo_kernels.language import tl, triton
from tempo_kernels.launch import Variant, check_indices, check_tensor, next_power_of_2
from tempo_kernels.relevance import NUM_WARPS, check_scoring, relevance_ref, score_segment

# Segments of each configuration; the warps are those of `relevance`, whose sums run in an order
# that depends on them.
BLOCKS = tuple(block for block, _ in CONFIGURATIONS)


@triton.jit(do_not_specialize=["T", "S", "tokens", "least", "share", "budget"])
def _relevance_allocate_kernel(
    p_hidden,
    p_index,
    p_weight,
    p_direction,
    p_relevance,
    p_allocations,
    p_offsets,
    p_done,
    T,
    eps,
    S,
    tokens,
    least,
    share,
    budget,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_S: tl.constexpr,
):
    i_program = tl.program_id(0)
    score = score_segment(i_program, p_hidden, p_index, p_weight, p_direction, T, eps, D, BLOCK_D)
    tl.store(p_relevance + i_program, score)
    # One thread releases for all of its program: their stores come before.
    tl.debug_barrier()
    if tl.atomic_add(p_done, 1, sem="acq_rel", scope="gpu") == S - 1:
        tl.store(p_done, 0)
        i_s = tl.arange(0, BLOCK_S)
        m_s = i_s < S
        # [BLOCK_S]; from L2, where every program's stores are: this one's L1 may be older
        b_score = tl.load(p_relevance + i_s, mask=m_s, other=0.0, cache_modifier=".cg")
        write_shares(b_score, i_s, m_s, p_allocations, p_offsets, S, tokens, least, share, budget)


def relevance_allocate(
    hidden: Tensor,
    index: Tensor,
    weight: Tensor,
    direction: Tensor,
    eps: float,
    done: Tensor,
    *,
    tokens: int,
    budget: int,
    min_tokens: int = 4,
) -> tuple[Tensor, Tensor, Tensor]:
    """Relevance float32 [S], allocations int64 [S] and offsets int64 [S + 1]; see the module.

    done: int32 [1], 0 now and again afterwards, of which no other launch at the same time knows.
    The rest as for `relevance` and `allocate`. Raises ValueError for arguments that don't fit
    together, a budget under S and counts out of range.
    """
    check_scoring(hidden, index, weight, direction)
    (segments, width), where = (len(index), hidden.shape[1]), hidden.device
    numbers = plan(segments, tokens, budget, min_tokens)
    check_tensor("done", done, shape=(1,), dtypes=torch.int32, device=where)
    check_indices("done", done, 1)
    relevance = torch.empty(segments, dtype=torch.float32, device=where)
    allocations = torch.empty(segments, dtype=torch.int64, device=where)
    offsets = torch.empty(segments + 1, dtype=torch.int64, device=where)
    _relevance_allocate_kernel[(segments,)](
        hidden,
        index,
        weight,
        direction,
        relevance,
        allocations,
        offsets,
        done,
        len(hidden),
        eps,
        segments,
        tokens,
        *numbers,
        D=width,
        BLOCK_D=next_power_of_2(width),
        BLOCK_S=next(block for block in BLOCKS if segments <= block),
        num_warps=NUM_WARPS,
    )
    return relevance, allocations, offsets


def relevance_allocate_ref(
    hidden: Tensor,
    index: Tensor,
    weight: Tensor,
    direction: Tensor,
    eps: float,
    done: Tensor,
    *,
    tokens: int,
    budget: int,
    min_tokens: int = 4,
) -> tuple[Tensor, Tensor, Tensor]:
    """The two references, one after the other.

    done is not needed, and here so that both take the same arguments.
    """
    relevance = relevance_ref(hidden, index, weight, direction, eps)
    rule = {"tokens": tokens, "budget": budget, "min_tokens": min_tokens}
    return relevance, *allocate_ref(relevance, **rule)


def variants() -> list[Variant]:
    """What the engine launches for Tempo-6B where it is asked to."""
    width = 2048
    found = []
    for dtype in ("bf16", "fp32"):
        pointers = {
            "p_hidden": f"*{dtype}",
            "p_index": "*i64",
            "p_weight": f"*{dtype}",
            "p_direction": "*fp32",
            "p_relevance": "*fp32",
            "p_allocations": "*i64",
            "p_offsets": "*i64",
            "p_done": "*i32",
        }
        numbers = dict.fromkeys(("T", "S", "tokens", "least", "share", "budget"), "i32")
        found += [
            Variant(
                name=f"{dtype}, D {width}, S to {block}",
                kernel=_relevance_allocate_kernel,
                signature=pointers | numbers | {"eps": "fp32"},
                constants={"D": width, "BLOCK_D": next_power_of_2(width), "BLOCK_S": block},
                divisible=tuple(pointers),
                num_warps=NUM_WARPS,
                narrow_store="a few hundred numbers, one behind a first zero",
            )
            for block in BLOCKS
        ]
    return found
