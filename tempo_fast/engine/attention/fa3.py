"""FlashAttention-3, for Hopper: the package that has the module `flash_attn_interface`.

One call serves every packing: ragged queries by cu_seqlens_q, any rows of the cache in place by
cache_batch_idx, and few queries on many cached tokens with the keys split across the chip
(num_splits=0 leaves their number to its heuristic, which goes by the cache's capacity).
Source: Shah et al. 2024 (arXiv 2407.08608).
"""

from __future__ import annotations

import torch

from tempo_fast.engine.attention.backend import (
    Backend,
    Site,
    lacks_gpu,
    lacks_head_dim,
    lacks_package,
)
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
    from flash_attn_interface import flash_attn_with_kvcache

    if not len(query):
        return torch.empty_like(query)
    spans = packing.spans
    keys, index = spans.rows_of(keys)
    values, _ = spans.rows_of(values)
    lengths = {"cu_seqlens_q": spans.cu_seqlens_q, "max_seqlen_q": spans.max_q}
    if not spans.ragged:
        query, lengths = query.unflatten(0, (-1, spans.max_q)), {}
    out = flash_attn_with_kvcache(
        query,
        keys,
        values,
        cache_seqlens=spans.seqused_k,
        cache_batch_idx=index,
        causal=causal,
        num_splits=0,
        **lengths,
    )
    return out if spans.ragged else out.flatten(0, 1)


def attend_dense(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """As `Backend` has it."""
    from flash_attn_interface import flash_attn_func

    out = flash_attn_func(query, key, value)
    # Its first releases return the logarithms of the softmax's sums too.
    return out[0] if isinstance(out, tuple) else out


def _missing(site: Site) -> str | None:
    return (
        lacks_gpu(site, 9, 9)
        or lacks_head_dim(site)
        or lacks_package(
            "flash_attn_interface",
            "FlashAttention-3 (the folder hopper of flash-attention)",
            flash_attn_with_kvcache="cu_seqlens_q",
            flash_attn_func="causal",
        )
    )


CACHED = Backend("fa3", attend_cached, _missing, replayable=True)
DENSE = Backend("fa3", attend_dense, _missing)
