"""Attention over a kv cache: one interface, and the backend that runs everywhere.

`attend_cached` takes the packed queries of n sequences against their rows of the cache, causally
aligned to the end of each row (bottom-right). It is the plain path that faster backends are
compared with: PyTorch's SDPA over dense batches of sequences of equal lengths.
"""

from __future__ import annotations

import torch
from torch.nn.functional import scaled_dot_product_attention

from tempo_fast.engine.kv_cache import Packing, Run

BACKEND = "sdpa"


def attend_cached(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, packing: Packing
) -> torch.Tensor:
    """Attention of packed new tokens to the cached ones and, causally, to themselves.

    query: [T, heads, head_dim]. keys, values: [n, capacity, kv_heads, head_dim], the new tokens
    already written. heads is a multiple of kv_heads (GQA). Returns [T, heads, head_dim].
    """
    out = torch.empty_like(query)
    for run in packing.runs:
        total = run.past + run.new
        k = keys[run.rows, :total].transpose(1, 2)
        v = values[run.rows, :total].transpose(1, 2)
        q = query[run.tokens]
        if run.new == 1:
            out[run.tokens] = _one_query(q, k, v)
            continue
        mask = None
        if run.past:
            shape = (run.new, run.past)
            if shape not in packing.masks:
                packing.masks[shape] = _causal_mask(run, query)
            mask = packing.masks[shape]
        q = q.unflatten(0, (-1, run.new)).transpose(1, 2)
        result = scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=True
        )
        out[run.tokens] = result.transpose(1, 2).flatten(0, 1)
    return out


def _one_query(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """One new token a sequence: query [b, heads, head_dim], keys [b, kv_heads, total, head_dim]."""
    # The heads of a group become the rows of one matrix, so each key is read once for all of them.
    grouped = q.unflatten(1, (k.shape[1], -1))
    return scaled_dot_product_attention(grouped, k, v).flatten(1, 2)


def _causal_mask(run: Run, like: torch.Tensor) -> torch.Tensor:
    """[new, past + new], 0 where a new token sees a token and -inf where it doesn't."""
    shape = (run.new, run.past + run.new)
    hidden = torch.full(shape, float("-inf"), device=like.device, dtype=like.dtype)
    return hidden.triu_(run.past + 1)


def attend_frames(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Full attention within each of n equal sequences: [n, length, heads, head_dim], all three."""
    q, k, v = (x.transpose(1, 2) for x in (query, key, value))
    return scaled_dot_product_attention(q, k, v).transpose(1, 2)
