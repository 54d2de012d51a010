"""The backend that runs everywhere, and that the others are compared with: PyTorch's SDPA.

Cached sequences go in dense batches of neighbours with equal lengths. On a GPU PyTorch picks the
kernel; a mask rules FlashAttention out, so one is only made for few tokens behind many cached ones.
"""

from __future__ import annotations

import torch
from torch.nn.functional import scaled_dot_product_attention

from tempo_fast.engine.attention.backend import Backend, Site
from tempo_fast.engine.kv_cache import Packing, Run


def attend_cached(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    packing: Packing,
    *,
    causal: bool = True,
) -> torch.Tensor:
    """As `Backend` has it."""
    out = torch.empty_like(query)
    for run in packing.runs:
        attend_run(query, keys, values, packing, run, out, causal=causal)
    return out


def attend_run(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    packing: Packing,
    run: Run,
    out: torch.Tensor,
    *,
    causal: bool,
) -> None:
    """Attend to one run of the packing, into its tokens of `out` [T, heads, head_dim]."""
    total = run.past + run.new
    k = keys[run.rows, :total].transpose(1, 2)
    v = values[run.rows, :total].transpose(1, 2)
    q = query[run.tokens]
    if run.new == 1:
        out[run.tokens] = _one_query(q, k, v)
        return
    q = q.unflatten(0, (-1, run.new)).transpose(1, 2)
    mask, square = None, causal
    if causal and run.past > run.new:
        shape, square = (run.new, run.past), False
        if shape not in packing.masks:
            packing.masks[shape] = _causal_mask(run, query)
        mask = packing.masks[shape]
    elif causal and run.past:
        # Half of a square is less than all that a mask would have computed, and then hidden.
        q = torch.cat((q.new_zeros(*q.shape[:2], run.past, q.shape[3]), q), 2)
    result = scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=square, enable_gqa=True
    )
    out[run.tokens] = result[:, :, -run.new :].transpose(1, 2).flatten(0, 1)


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


def attend_dense(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """As `Backend` has it."""
    q, k, v = (x.transpose(1, 2) for x in (query, key, value))
    return scaled_dot_product_attention(q, k, v).transpose(1, 2)


def _missing(site: Site) -> None:
    return None


CACHED = Backend("sdpa", attend_cached, _missing)
DENSE = Backend("sdpa", attend_dense, _missing)
