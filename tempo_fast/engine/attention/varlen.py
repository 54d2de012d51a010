"""PyTorch's own FlashAttention-2 on sequences of any lengths, which needs no other package.

A row of the cache is named by where it starts and how many of its tokens count (seqused_k), so any
rows are read in place. The kernel takes only the start from cu_seqlens_k then, which need not rise.
One-token queries are passed as not causal, which for them is the same: only without any window does
the kernel put the heads of a group together and split the keys across the chip (its heuristic
chooses into how many parts); queries of several tokens aren't split.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from inspect import signature

import torch
from torch.nn.attention import varlen

from tempo_fast.engine.attention.backend import Backend, Site, lacks_gpu, lacks_head_dim
from tempo_fast.engine.kv_cache import Packing


def attend_cached(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    packing: Packing,
    *,
    causal: bool = True,
) -> torch.Tensor:
    """As `Backend` has it."""
    if not len(query):
        return torch.empty_like(query)
    spans = packing.spans
    call = _public if _takes_lengths(varlen.varlen_attn) else _operator
    return call(
        query,
        keys.view(-1, *keys.shape[2:]),
        values.view(-1, *values.shape[2:]),
        spans.cu_seqlens_q,
        spans.starts_k,
        spans.max_q,
        spans.max_k,
        causal=causal and spans.max_q > 1,
        seqused_k=spans.seqused_k,
    )


def _public(*tensors_and_sizes, causal: bool, seqused_k: torch.Tensor) -> torch.Tensor:
    """torch ≥ 2.12."""
    return varlen.varlen_attn(
        *tensors_and_sizes,
        window_size=(-1, 0) if causal else (-1, -1),
        enable_gqa=True,
        seqused_k=seqused_k,
    )


def _operator(*tensors_and_sizes, causal: bool, seqused_k: torch.Tensor) -> torch.Tensor:
    """torch 2.11, whose varlen_attn doesn't pass lengths on to the operator that takes them."""
    dropout, debug_mask = 0.0, False
    return torch.ops.aten._flash_attention_forward(
        *tensors_and_sizes, dropout, causal, debug_mask, seqused_k=seqused_k
    )[0]


@cache
def _takes_lengths(varlen_attn: Callable) -> bool:
    return "seqused_k" in signature(varlen_attn).parameters


def _missing(site: Site) -> str | None:
    if not torch.backends.cuda.is_flash_attention_available():
        return lacks_gpu(site, 8) or "needs a PyTorch built with FlashAttention"
    return lacks_gpu(site, 8) or lacks_head_dim(site)


CACHED = Backend("varlen", attend_cached, _missing, replayable=True)
