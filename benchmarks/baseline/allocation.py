"""Allocation as the published code does it: every token is normed, the host finds the shares."""

from __future__ import annotations

import torch
from torch import Tensor

from tempo_fast.compression.allocation import allocate
from tempo_kernels.rms_norm import rms_norm_ref


def score_and_select(
    hidden: Tensor,
    index: Tensor,
    weight: Tensor,
    direction: Tensor,
    eps: float,
    *,
    memory: Tensor,
    budget: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Relevance float32 [S], allocations int64 [S] on the CPU, and the kept tokens [Σk, D].

    hidden [T, D]: last-layer states, of which index [S] names each segment's last prompt token.
    weight [D], eps: of the final norm. direction: float32 [D]. memory: [S, M, D] before the norm,
    which the published model applies to every token before any is left out.
    """
    relevance = torch.sigmoid(rms_norm_ref(hidden[index], weight, eps).float() @ direction)
    tokens = rms_norm_ref(memory, weight, eps)
    counts = allocate(relevance.cpu(), tokens=memory.shape[1], budget=budget)
    kept = [of_one[:count] for of_one, count in zip(tokens, counts.tolist(), strict=True)]
    return relevance, counts, torch.cat(kept)
