"""Adaptive token allocation: how many memory tokens each segment keeps, from its relevance."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral

import numpy as np
import torch
from torch import Tensor

from tempo_fast.engine import ops
from tempo_fast.errors import ModelError, OptionError
from tempo_kernels.allocate import MAX_SEGMENTS

# A spread of relevance under this says nothing: every segment gets the same.
EQUAL_RELEVANCE = 1e-8


def checked_relevance(relevance: Tensor | np.ndarray | Sequence[float]) -> Tensor:
    """`relevance` as float32 [S] on the CPU, every value finite.

    Raises OptionError if it is not a list of one or more numbers, ModelError if one is NaN or
    infinite.
    """
    try:
        scores = torch.as_tensor(relevance).detach().to("cpu", torch.float32)
    except (TypeError, ValueError, RuntimeError) as error:
        raise OptionError(f"relevance must be a list of numbers: {error}") from error
    if scores.ndim != 1 or scores.numel() == 0:
        raise OptionError(
            f"relevance must be one number a segment, shape [S]; got shape {list(scores.shape)}"
        )
    finite = torch.isfinite(scores)
    if not finite.all():
        first = int((~finite).nonzero()[0])
        raise ModelError(
            f"the relevance of segment {first} is {scores[first].item()} "
            f"({int((~finite).sum())} of {len(scores)} are no finite number): "
            "the checkpoint's weights or the kernels that ran them are broken"
        )
    return scores


def check_whole(**counts: int) -> None:
    """Raise OptionError unless every one of `counts` is a whole number of at least 1."""
    for name, value in counts.items():
        if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
            raise OptionError(f"{name} must be a whole number of at least 1; got {value!r}")


def check_budget(budget: int, segments: int) -> None:
    """Raise OptionError, naming the least budget, unless `budget` gives every segment a token."""
    check_whole(budget=budget)
    if budget < segments:
        raise OptionError(
            f"a budget of {budget} memory tokens is too small for {segments} segments, which need "
            f"one each: the least budget is {segments}"
        )


def allocate(
    relevance: Tensor | np.ndarray | Sequence[float],
    *,
    tokens: int,
    budget: int,
    min_tokens: int = 4,
) -> Tensor:
    """Memory tokens that each segment keeps: int64 [S], on the device of `relevance`.

    relevance: [S], any finite numbers. tokens: memory tokens a segment has (M). budget: memory
    tokens that all segments share (B). min_tokens: the least a segment gets (m).

    The published code's rule, in float32 and in the order of its operations:

    1. m becomes max(1, B // S) where S·m > B.
    2. If max s - min s < 1e-8, every segment gets min(M, B // S).
    3. n = (s - min s) / (max s - min s); a segment wants m + floor(n·(M - m)).
    4. If the wants fit the budget, they are met.
    5. Else the E = B - S·m tokens above the least are shared: floor(n/Σn · E) each, and what
       rounding left goes one each to the largest n/Σn. Of equal ones, those that torch's plain
       (not stable) sort puts first get it, as published: up to 16 segments the earlier ones,
       beyond that an order of the sort's own, the same on every run.
    6. Every segment is clamped to m…M (to M where m > M). What this frees stays unused.

    So Σk ≤ B, and more relevance never means fewer tokens (float32's rounding apart). Budgets
    beyond some millions exceed what float32 shares exactly. Where the engine uses kernels, float32
    tensors of up to 4096 segments are allocated on their device, and in step 5 the earlier of
    equal segments comes first.

    Raises OptionError for a budget under S (it names the least), for a relevance that is no list of
    numbers and for counts under 1; ModelError for a relevance that is NaN or infinite.
    """
    check_whole(tokens=tokens, min_tokens=min_tokens)
    if _fits_the_kernel(relevance):
        check_budget(budget, len(relevance))
        share = {"tokens": tokens, "budget": int(budget), "min_tokens": min_tokens}
        kept, offsets = ops.allocate(relevance, **share)
        if offsets[-1] >= 0:
            return kept
        # The kernel can't raise; what is wrong with the relevance is told by the checks below.
    scores = checked_relevance(relevance)
    segments = len(scores)
    check_budget(budget, segments)
    device = relevance.device if isinstance(relevance, Tensor) else scores.device

    least = min_tokens if segments * min_tokens <= budget else max(1, budget // segments)
    lowest = scores.min()
    spread = scores.max() - lowest
    if not torch.isfinite(spread):
        raise ModelError("the relevance values lie further apart than float32 can say")
    if spread < EQUAL_RELEVANCE:
        return torch.full((segments,), min(tokens, budget // segments), device=device)

    rank = (scores - lowest) / spread  # [S], 0…1
    kept = least + torch.floor(rank * (tokens - least)).long()
    if kept.sum() > budget:
        kept = least + _shares(rank / rank.sum(), budget - segments * least)
    return kept.clamp(least, tokens).to(device)


def _fits_the_kernel(relevance: object) -> bool:
    return (
        isinstance(relevance, Tensor)
        and relevance.dtype == torch.float32
        and relevance.ndim == 1
        and 1 <= len(relevance) <= MAX_SEGMENTS
        and ops.uses_kernels(relevance.device)
    )


def _shares(weights: Tensor, extra: int) -> Tensor:
    """`extra` tokens by `weights` (float32 [S], sum 1), rounded down, the rest to the largest."""
    shares = torch.floor(weights * extra).long()
    rest = extra - int(shares.sum())
    # Not a stable sort: among equal weights the published order is the plain sort's own.
    shares[weights.argsort(descending=True)[: max(rest, 0)]] += 1
    return shares
