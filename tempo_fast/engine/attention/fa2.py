"""FlashAttention-2: the package flash-attn.

Sequences with equally many new tokens, which decoding and a question's tokens are, go through
flash_attn_with_kvcache: it reads the rows in place and splits the keys across the chip where the
queries are few (num_splits=0: its heuristic). Ragged ones go through flash_attn_varlen_func, which
takes no lengths beside the places where sequences start: their cached tokens are packed first,
which reads and writes them once more than `varlen` does.
Source: Dao 2023 (arXiv 2307.08691).
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
    from flash_attn import flash_attn_varlen_func, flash_attn_with_kvcache

    if not len(query):
        return torch.empty_like(query)
    spans = packing.spans
    if spans.ragged:
        places, starts = packing.gathered
        return flash_attn_varlen_func(
            query,
            keys.view(-1, *keys.shape[2:])[places],
            values.view(-1, *values.shape[2:])[places],
            cu_seqlens_q=spans.cu_seqlens_q,
            cu_seqlens_k=starts,
            max_seqlen_q=spans.max_q,
            max_seqlen_k=spans.max_k,
            causal=causal,
        )
    keys, index = spans.rows_of(keys)
    values, _ = spans.rows_of(values)
    out = flash_attn_with_kvcache(
        query.unflatten(0, (-1, spans.max_q)),
        keys,
        values,
        cache_seqlens=spans.seqused_k,
        cache_batch_idx=index,
        causal=causal,
        num_splits=0,
    )
    return out.flatten(0, 1)


def attend_dense(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """As `Backend` has it."""
    from flash_attn import flash_attn_func

    return flash_attn_func(query, key, value)


def _missing(site: Site) -> str | None:
    return (
        lacks_gpu(site, 8)
        or lacks_head_dim(site)
        or lacks_package(
            "flash_attn",
            "flash-attn 2.3 or newer",
            flash_attn_with_kvcache="cache_batch_idx",
            flash_attn_varlen_func="causal",
            flash_attn_func="causal",
        )
    )


CACHED = Backend("fa2", attend_cached, _missing, replayable=True)
DENSE = Backend("fa2", attend_dense, _missing)
