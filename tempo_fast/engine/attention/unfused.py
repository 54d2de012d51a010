"""Attention on a CPU: oneDNN's products around a softmax without its shift.

    powers = 2^(q kᵀ · log₂e / √head_dim)        attention = powers v / Σ powers

All in float32, from and to any dtype. PyTorch's fused kernel takes its products in small blocks
from MKL, which on AMD's processors has half of the speed of oneDNN, in half precision too. A
softmax subtracts the largest score of a row only so that no power overflows: here that is seen in
the sums and the largest value, and where they are out of bounds the plain path runs instead. Each
product shares out its rows among torch's threads, which costs more than it gives where cores are
busy: it is left to threads that have one core each, as those of the crew have on up to four.
"""

from __future__ import annotations

import math

import torch

from tempo_fast import onednn
from tempo_fast.engine.attention import plain
from tempo_fast.engine.attention.backend import Backend, Site
from tempo_fast.engine.kv_cache import Packing

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# The least sum of a row: below, powers that count could be lost. The most that a row's sum times
# the largest value may be: above, their product could overflow.
LEAST, MOST = 2.0**-80, 2.0**126
# Below so many multiplications of one product the fused kernel is faster, and below so many rows,
# for which a head's keys and values aren't worth putting together (measured on a Zen 5).
FEWEST, FEWEST_ROWS = 3 << 19, 192
# Scores of one product, which has as many rows at least; those of two are held at once.
BLOCK, ROWS = 1 << 20, 256
# Queries of a block where later tokens are hidden: half of a block's last square is for nothing.
CAUSAL_QUERIES = 256
# Keys that are looked at there come in such steps: oneDNN keeps code for every shape that it meets.
STEP = 256


def attend_dense(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """As `Backend` has it."""
    length, head_dim = query.shape[1], query.shape[3]
    if not (_worth(length, length, head_dim) and _usable(query, key, value)):
        return plain.attend_dense(query, key, value)
    out = torch.empty_like(query, memory_format=torch.contiguous_format)
    q, k, v, into = (x.transpose(1, 2) for x in (query, key, value, out))
    if _attend(q.unsqueeze(2), k, v, into.unsqueeze(2), causal=False):
        return out
    return plain.attend_dense(query, key, value)


def attend_cached(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    packing: Packing,
    *,
    causal: bool = True,
) -> torch.Tensor:
    """As `Backend` has it."""
    if not _usable(query, keys, values):
        return plain.attend_cached(query, keys, values, packing, causal=causal)
    out = torch.empty_like(query)
    heads = (keys.shape[2], -1)
    for run in packing.runs:
        total = run.past + run.new
        q, into = (
            x[run.tokens].unflatten(0, (-1, run.new)).unflatten(2, heads).permute(0, 2, 3, 1, 4)
            for x in (query, out)
        )
        k, v = (x[run.rows, :total].transpose(1, 2) for x in (keys, values))
        worth = _worth(q.shape[2] * run.new, total, q.shape[4])
        if not (worth and _attend(q, k, v, into, causal=causal)):
            plain.attend_run(query, keys, values, packing, run, out, causal=causal)
    return out


def _usable(*tensors: torch.Tensor) -> bool:
    return onednn.usable(*tensors, dtypes=DTYPES)


def _worth(rows: int, keys: int, head_dim: int) -> bool:
    """Whether products of this size are faster than the fused kernel."""
    few = rows < FEWEST_ROWS or rows * keys * head_dim < FEWEST
    return not few and torch.get_num_threads() == 1


def _attend(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, out: torch.Tensor, causal: bool
) -> bool:
    """Attend within n equally long sequences, into `out`; False where it is out of bounds.

    query, out: [n, kv_heads, group, new, head_dim]. keys, values: [n, kv_heads, total, head_dim].
    """
    group, new, head_dim = query.shape[2:]
    total = keys.shape[2]
    past = total - new
    scale = math.log2(math.e) / math.sqrt(head_dim)
    keys, values = keys.contiguous(), values.contiguous()
    # A NaN stays one, and then no sum is small enough.
    largest = float(torch.stack(values.aminmax()).abs().max()) if values.numel() else 0.0
    most = max(1, max(BLOCK // total, ROWS) // group)
    most = min(most, CAUSAL_QUERIES) if causal else most
    # As equal as they can be: a short last block costs as much to set up as a long one.
    size = math.ceil(new / math.ceil(new / most))
    for first in range(0, new, size):
        end = min(first + size, new)
        seen = min(total, math.ceil((past + end) / STEP) * STEP) if causal else total
        # The heads of a group are rows of one product.
        rows = (query[..., first:end, :].float() * scale).flatten(2, 3).flatten(0, 1)
        sums = rows.new_empty(*rows.shape[:2], 1)
        each = (
            rows,
            keys[:, :, :seen].float().flatten(0, 1),
            values[:, :, :seen].float().mT.flatten(0, 1),
            sums,
            sums.view(-1, group, end - first, 1),
        )
        places = (part for one in out[..., first:end, :].unbind() for part in one.unbind())
        # Little is done beside the products: whoever works beside this thread waits for its Python.
        for q, k, v, s, parts, into in zip(*(x.unbind() for x in each), places, strict=True):
            powers = onednn.linear(q, k, None).exp2_()
            if causal:
                powers.view(group, -1, seen)[..., past + first :].tril_()
            torch.sum(powers, -1, keepdim=True, out=s)
            torch.div(onednn.linear(powers, v, None).view_as(into), parts, out=into)
        if sums.numel():
            low, high = torch.aminmax(sums)
            if not (low >= LEAST and high <= MOST / max(largest, 1.0)):
                return False
    return True


def _missing(site: Site) -> str | None:
    if site.device.type != "cpu" or not onednn.AVAILABLE:
        return "needs a CPU with AVX-512, and PyTorch with oneDNN"
    return None if site.dtype in DTYPES else f"has no {site.dtype}"


CACHED = Backend("onednn", attend_cached, _missing)
DENSE = Backend("onednn", attend_dense, _missing)
