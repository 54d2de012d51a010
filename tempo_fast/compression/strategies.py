"""Which memory tokens a question keeps: token allocation and its ablations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tempo_fast.compression.allocation import (
    Allocation,
    adaptive_allocation,
    check_budget,
    check_whole,
    checked_relevance,
)
from tempo_fast.compression.merging import merge_tokens
from tempo_fast.engine import ops
from tempo_fast.engine.streams import upload
from tempo_fast.errors import OptionError
from tempo_fast.models.layers import RMSNorm
from tempo_fast.options import AskOptions

DEFAULT_SEED = 0


@dataclass(frozen=True)
class Strategy:
    """How many memory tokens each segment keeps (`allocate`) and which (`select`).

    name:
      head     the first k of each segment; k by adaptive token allocation.
      tail     the last k. random: k at random places, in their order. tome: all M, merged down to
               k by similarity (see `merging`). k as for head.
      uniform  the first k; k is an equal share of the budget whatever the relevance.
      shuffled  the first k; the k of head, dealt to the segments at random (as a control).
      none     all M of every segment, whatever the budget.
    pruning: None, or how to choose the segments that keep all M; the other floor(S·prune_ratio)
      keep prune_tokens each, and the budget is not looked at. topk: the most relevant are kept
      whole. lastk: the least relevant (the opposite, as a control). random: any. Equal relevance
      ranks the earlier segment higher. `name` still says which prune_tokens a segment keeps.
    seed: of everything random here; None is 0, so that a question repeated gets the same tokens.

    Raises OptionError for a name or number out of range.
    """

    name: str = "head"
    pruning: str | None = None
    prune_ratio: float = 0.5
    prune_tokens: int = 0
    seed: int | None = None

    def __post_init__(self) -> None:
        AskOptions(  # has the checks, so that names and ranges are written down once
            strategy=self.name,
            pruning=self.pruning,
            prune_ratio=self.prune_ratio,
            prune_tokens=self.prune_tokens,
            seed=self.seed,
        )

    @property
    def needs_every_token(self) -> bool:
        """True when `select` looks past the first k tokens of a segment."""
        return self.name in ("tail", "random", "tome")

    @property
    def shares_budget(self) -> bool:
        """True when `allocate` divides the budget among the segments."""
        return self.pruning is None and self.name != "none"

    @property
    def shares_by_relevance(self) -> bool:
        """True when `allocate` divides the budget by adaptive token allocation."""
        return self.shares_budget and self.name != "uniform"

    def allocate(
        self,
        relevance: Tensor | Sequence[float],
        *,
        tokens: int,
        budget: int,
        min_tokens: int = 4,
        shares: tuple[Tensor, Tensor] | None = None,
    ) -> Allocation:
        """Memory tokens that each segment keeps, on the device of `relevance`.

        Arguments and errors are those of `allocation.allocate`. uniform: B // S each and one more
        for the first B % S segments, at most M; min_tokens is not used. none and pruning use
        neither budget nor min_tokens. shares: as for `adaptive_allocation`.
        """
        if self.shares_by_relevance:
            rule = {"tokens": tokens, "budget": budget, "min_tokens": min_tokens}
            allocation = adaptive_allocation(relevance, **rule, shares=shares)
            if self.name != "shuffled":
                return allocation
            order = torch.randperm(len(allocation.kept), generator=self._generator())
            dealt = [allocation.kept[i] for i in order.tolist()]
            return Allocation.of(dealt, allocation.counts.device)
        scores = checked_relevance(relevance)
        check_whole(tokens=tokens)
        segments = len(scores)
        if self.pruning is not None:
            kept = self._prune(scores, tokens).tolist()
        elif self.name == "none":
            kept = [tokens] * segments
        else:
            check_budget(budget, segments)
            kept = [min(tokens, (budget + i) // segments) for i in reversed(range(segments))]
        return Allocation.of(kept, relevance.device if isinstance(relevance, Tensor) else "cpu")

    def _prune(self, scores: Tensor, tokens: int) -> Tensor:
        segments = len(scores)
        if self.pruning == "random":
            order = torch.randperm(segments, generator=self._generator())
        else:
            order = scores.argsort(descending=True, stable=True)
            order = order.flip(0) if self.pruning == "lastk" else order
        whole = segments - math.floor(segments * self.prune_ratio)
        counts = torch.full((segments,), min(self.prune_tokens, tokens))
        counts[order[:whole]] = tokens
        return counts

    def select(self, memory: Tensor, allocation: Allocation, norm: RMSNorm | None = None) -> Tensor:
        """The kept tokens of `memory` [S, M, D], packed in segment order: [Σk, D].

        allocation: of 0…M tokens a segment, where `memory` is. norm: the compressor's final norm,
        where `memory` hasn't had it. Positions past the first k are only looked at where
        `needs_every_token`. Raises OptionError if the two don't fit together.
        """
        kept = allocation.kept
        if memory.ndim != 3 or len(kept) != len(memory):
            raise OptionError(
                "memory [S, M, D] and allocations [S] must have the same segments; got shapes "
                f"{list(memory.shape)} and [{len(kept)}]"
            )
        segments, tokens, width = memory.shape
        if not all(0 <= k <= tokens for k in kept):
            raise OptionError(f"allocations must lie in 0…{tokens}; got {list(kept)}")
        if self.name == "tome":
            states = memory if norm is None else norm(memory.contiguous())
            return merge_tokens(states, torch.tensor(kept))
        if self.name == "random":
            place = torch.rand(segments, tokens, generator=self._generator()).argsort(1).argsort(1)
            index = (place < torch.tensor(kept)[:, None]).flatten().nonzero().flatten()
            chosen = memory.reshape(-1, width).index_select(0, upload(index, memory.device))
            return chosen if norm is None else norm(chosen)
        return ops.select(
            memory,
            allocation.counts,
            allocation.offsets,
            memory.new_ones(width) if norm is None else norm.weight,
            0.0 if norm is None else norm.eps,
            total=allocation.total,
            take="tail" if self.name == "tail" else "head",
            normalize=norm is not None,
        )

    def _generator(self) -> torch.Generator:
        # On the CPU, so that the same seed gives the same tokens on every device.
        return torch.Generator().manual_seed(DEFAULT_SEED if self.seed is None else self.seed)


def strategy_of(options: AskOptions) -> Strategy:
    """The strategy that `options` ask for; `none` where dynamic_compress is off."""
    if not options.dynamic_compress:
        return Strategy(name="none")
    return Strategy(
        name=options.strategy,
        pruning=options.pruning,
        prune_ratio=options.prune_ratio,
        prune_tokens=options.prune_tokens,
        seed=options.seed,
    )
