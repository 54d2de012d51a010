"""Adaptive token allocation: how many memory tokens each segment keeps, from its relevance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from numbers import Integral

import numpy as np
import torch
from torch import Tensor

from tempo_fast.engine import ops
from tempo_fast.engine.streams import upload
from tempo_fast.errors import ModelError, OptionError
from tempo_kernels.allocate import MAX_SEGMENTS

# A spread of relevance under this says nothing: every segment gets the same.
EQUAL_RELEVANCE = 1e-8


@dataclass(frozen=True, eq=False)
class Allocation:
    """Memory tokens that each segment keeps, where kernels read them and as the host knows them.

    counts: int64 [S]. offsets: int64 [S + 1], where each segment starts in the packed tokens. kept:
    the counts again, [S]: all that a question reads of the device before its prefill, in one copy
    (its clock waits besides, at the end of each stage). The total alone would do for `select`;
    `Compressor.write` packs each segment's tokens on the host.
    """

    counts: Tensor
    offsets: Tensor
    kept: tuple[int, ...]

    @classmethod
    def of(cls, kept: Sequence[int], device: torch.device | str = "cpu") -> Allocation:
        """From the host's numbers."""
        offsets = upload(torch.tensor([*accumulate(kept, initial=0)]), torch.device(device))
        return cls(offsets.diff(), offsets, tuple(kept))

    @property
    def total(self) -> int:
        """The memory tokens of all segments."""
        return sum(self.kept)


@dataclass(frozen=True, eq=False)
class Scored:
    """The relevance float32 [S] of a question, and what came with it.

    shares: counts int64 [S] and offsets int64 [S + 1] of the adaptive allocation, where the launch
    that scored has shared the budget out too; else None.
    """

    relevance: Tensor
    shares: tuple[Tensor, Tensor] | None = None


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
    rule = {"tokens": tokens, "budget": budget, "min_tokens": min_tokens}
    return adaptive_allocation(relevance, **rule).counts


def adaptive_allocation(
    relevance: Tensor | np.ndarray | Sequence[float],
    *,
    tokens: int,
    budget: int,
    min_tokens: int,
    shares: tuple[Tensor, Tensor] | None = None,
) -> Allocation:
    """`allocate`, with what select, assemble and the host need beside the counts.

    shares: those that `Scored` has for the same numbers.
    """
    check_whole(tokens=tokens, min_tokens=min_tokens)
    if shares is None and _fits_the_kernel(relevance):
        check_budget(budget, len(relevance))
        share = {"tokens": tokens, "budget": int(budget), "min_tokens": min_tokens}
        shares = ops.allocate(relevance, **share)
    if shares is not None:
        counts, offsets = shares
        ends = offsets.tolist()
        if ends[-1] >= 0:
            return Allocation(counts, offsets, tuple(b - a for a, b in pairwise(ends)))
        # The kernel can't raise; what is wrong with the relevance is told by the checks below.
    scores = checked_relevance(relevance)
    check_budget(budget, len(scores))
    kept = _published(scores, tokens, budget, min_tokens).tolist()
    return Allocation.of(kept, relevance.device if isinstance(relevance, Tensor) else "cpu")


def _published(scores: Tensor, tokens: int, budget: int, min_tokens: int) -> Tensor:
    """The rule as the published code has it, on the CPU."""
    segments = len(scores)
    least = min_tokens if segments * min_tokens <= budget else max(1, budget // segments)
    lowest = scores.min()
    spread = scores.max() - lowest
    if not torch.isfinite(spread):
        raise ModelError("the relevance values lie further apart than float32 can say")
    if spread < EQUAL_RELEVANCE:
        return torch.full((segments,), min(tokens, budget // segments))

    rank = (scores - lowest) / spread  # [S], 0…1
    kept = least + torch.floor(rank * (tokens - least)).long()
    if kept.sum() > budget:
        kept = least + _shares(rank / rank.sum(), budget - segments * least)
    return kept.clamp(least, tokens)


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
