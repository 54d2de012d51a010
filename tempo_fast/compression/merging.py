"""Token merging: fewer memory tokens by averaging similar ones, for all segments at once."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def merge_tokens(memory: Tensor, allocations: Tensor) -> Tensor:
    """Merge each segment's memory tokens down to its allocation: [S, M, D] -> packed [Σk, D].

    allocations: int64 [S] on the CPU, each 0…M; M leaves a segment as it is.

    Bipartite soft matching (Bolya et al., Token Merging, arXiv 2210.09461) in rounds, as the
    published code applies it. In a round over n tokens, those at even positions each find their
    most similar one at an odd position (cosine of the tokens themselves), and the
    r = min(n // 2, n - k) most similar pairs are merged: the odd token becomes the plain mean of
    itself and all even ones that chose it, whatever those merged in earlier rounds. The next round
    reads the even tokens that are left, in their order, then the odd ones. Equal similarities go to
    the earlier token. Computed in float32, returned in the dtype of `memory`.
    """
    length = memory.shape[1]
    owner = torch.repeat_interleave(torch.arange(len(allocations)), allocations)  # [Σk]
    packed = memory.new_empty(len(owner), memory.shape[2])

    def put(segments: Tensor, rows: Tensor) -> None:
        packed[torch.isin(owner, segments).to(packed.device)] = rows.to(packed.dtype)

    whole = (allocations == length).nonzero().flatten()
    put(whole, memory[whole.to(memory.device)].flatten(0, 1))

    active = ((allocations > 0) & (allocations < length)).nonzero().flatten()
    state = memory[active.to(memory.device)].float()  # [S', n, D], n halved by every round
    while len(active):
        half = length // 2
        goal = allocations[active]
        merged, kept = _round(state, (length - goal).clamp(max=half).to(memory.device))
        length -= half
        done = goal >= length
        here = done.to(memory.device)
        put(active[done], merged[here][kept[here]])
        # A segment that goes on has merged all it could: `length` tokens are left of each.
        state = merged[~here][kept[~here]].unflatten(0, (-1, length))
        active = active[~done]
    return packed


def _round(state: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """One round of matching: merge the `count` [S] most similar pairs of `state` [S, n, D].

    Returns the even tokens followed by the averaged odd ones, [S, n, D], and the mask [S, n] of
    those that are left.
    """
    even, odd = state[:, ::2], state[:, 1::2]
    unit = functional.normalize(state, dim=-1)
    similarity = unit[:, ::2] @ unit[:, 1::2].mT  # [S, ceil(n/2), floor(n/2)]
    best, partner = similarity.max(dim=-1)
    place = best.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
    merges = place < count[:, None]  # [S, ceil(n/2)]

    # A matrix product instead of a scatter: its sums come out the same on every run.
    chosen = functional.one_hot(partner, odd.shape[1]).to(state.dtype) * merges[..., None]
    total = odd + chosen.mT @ even
    mean = total / (1 + chosen.sum(dim=1))[..., None]
    left = functional.pad(~merges, (0, odd.shape[1]), value=True)
    return torch.cat([even, mean], dim=1), left
