"""Stand-ins for the attention packages, with their signatures and their demands on arguments.

They compute in float64, plainly, what the packages document, and refuse what the packages refuse:
dtypes, shapes, strides, devices. As the packages do, they align causality to the bottom right.
"""

from __future__ import annotations

import math
import sys
from types import ModuleType

import torch


def attention(q, k, v, causal):
    """float64 [Q, heads, head_dim] from q [Q, heads, head_dim], k and v [K, kv_heads, head_dim]."""
    q, k, v = (x.double().transpose(0, 1) for x in (q, k, v))
    group = q.shape[0] // k.shape[0]
    k, v = k.repeat_interleave(group, 0), v.repeat_interleave(group, 0)
    score = q @ k.transpose(1, 2) / math.sqrt(q.shape[2])
    if causal:
        hidden = torch.ones(score.shape[1:], dtype=torch.bool, device=q.device)
        score = score.masked_fill(hidden.triu(k.shape[1] - q.shape[1] + 1), -math.inf)
    return (score.softmax(-1) @ v).transpose(0, 1)


def check_heads(q, k, v, dims):
    assert q.dtype in (torch.bfloat16, torch.float16), q.dtype
    assert {k.dtype, v.dtype} == {q.dtype} and {k.device, v.device} == {q.device}
    assert (q.ndim, k.ndim, v.ndim) == dims and k.shape == v.shape
    assert q.shape[-1] == k.shape[-1] and q.shape[-1] % 8 == 0 and q.shape[-1] <= 256
    assert q.shape[-2] % k.shape[-2] == 0
    assert all(x.stride(-1) == 1 for x in (q, k, v))


def check_numbers(like, count, *tensors):
    for tensor in tensors:
        assert (tensor.dtype, tensor.shape) == (torch.int32, (count,)), tensor
        assert tensor.is_contiguous() and tensor.device == like.device


def check_starts(starts, total, longest):
    """cu_seqlens in the strict sense."""
    steps = starts.diff()
    assert starts[0] == 0 and starts[-1] == total and (steps >= 0).all() and steps.max() <= longest


def packed(q, starts, k, v, begins, counts, causal):
    out = torch.full(q.shape, math.nan, dtype=q.dtype, device=q.device)
    for i, (begin, count) in enumerate(zip(begins.tolist(), counts.tolist(), strict=True)):
        new = slice(int(starts[i]), int(starts[i + 1]))
        assert not causal or new.stop - new.start <= count <= len(k)
        cached = slice(begin, begin + count)
        out[new] = attention(q[new], k[cached], v[cached], causal).to(q.dtype)
    return out


def batched(q, k_cache, v_cache, seqlens, rows, causal):
    outs = [
        attention(one, k_cache[row, :count], v_cache[row, :count], causal)
        for one, row, count in zip(q, rows, seqlens.tolist(), strict=True)
    ]
    return torch.stack(outs).to(q.dtype)


def kvcache_rows(q_count, k_cache, cache_seqlens, cache_batch_idx):
    check_numbers(k_cache, q_count, cache_seqlens)
    assert cache_seqlens.max() <= k_cache.shape[1]
    if cache_batch_idx is None:
        assert len(k_cache) == q_count, "a row for each sequence"
        return list(range(q_count))
    check_numbers(k_cache, q_count, cache_batch_idx)
    return cache_batch_idx.tolist()


def dense(q, k, v, causal):
    check_heads(q, k, v, (4, 4, 4))
    outs = [attention(*one, causal) for one in zip(q, k, v, strict=True)]
    return torch.stack(outs).to(q.dtype)


def flash_attn() -> ModuleType:
    """flash-attn 2.8."""

    def flash_attn_func(
        q,
        k,
        v,
        dropout_p=0.0,
        softmax_scale=None,
        causal=False,
        window_size=(-1, -1),
        softcap=0.0,
        alibi_slopes=None,
        deterministic=False,
        return_attn_probs=False,
    ):
        return dense(q, k, v, causal)

    def flash_attn_varlen_func(
        q,
        k,
        v,
        cu_seqlens_q,
        cu_seqlens_k,
        max_seqlen_q,
        max_seqlen_k,
        dropout_p=0.0,
        softmax_scale=None,
        causal=False,
        window_size=(-1, -1),
        softcap=0.0,
        alibi_slopes=None,
        deterministic=False,
        return_attn_probs=False,
        block_table=None,
    ):
        check_heads(q, k, v, (3, 3, 3))
        check_numbers(q, len(cu_seqlens_q), cu_seqlens_q, cu_seqlens_k)
        check_starts(cu_seqlens_q, len(q), max_seqlen_q)
        check_starts(cu_seqlens_k, len(k), max_seqlen_k)
        counts = cu_seqlens_k.diff()
        return packed(q, cu_seqlens_q, k, v, cu_seqlens_k[:-1], counts, causal)

    def flash_attn_with_kvcache(
        q,
        k_cache,
        v_cache,
        k=None,
        v=None,
        rotary_cos=None,
        rotary_sin=None,
        cache_seqlens=None,
        cache_batch_idx=None,
        cache_leftpad=None,
        block_table=None,
        softmax_scale=None,
        causal=False,
        window_size=(-1, -1),
        softcap=0.0,
        rotary_interleaved=True,
        alibi_slopes=None,
        num_splits=0,
        return_softmax_lse=False,
    ):
        check_heads(q, k_cache, v_cache, (4, 4, 4))
        assert num_splits == 0, "only its own heuristic fits every length"
        rows = kvcache_rows(len(q), k_cache, cache_seqlens, cache_batch_idx)
        return batched(q, k_cache, v_cache, cache_seqlens, rows, causal)

    return _module("flash_attn", flash_attn_func, flash_attn_varlen_func, flash_attn_with_kvcache)


def flash_attn_interface(*, first_release: bool = False) -> ModuleType:
    """FlashAttention-3; the first release's flash_attn_func returns a tuple."""

    def flash_attn_func(
        q,
        k,
        v,
        softmax_scale=None,
        causal=False,
        qv=None,
        q_descale=None,
        k_descale=None,
        v_descale=None,
        window_size=(-1, -1),
        attention_chunk=0,
        softcap=0.0,
        num_splits=1,
        pack_gqa=None,
        deterministic=False,
        sm_margin=0,
        return_attn_probs=False,
    ):
        out = dense(q, k, v, causal)
        return (out, out.new_zeros(())) if first_release else out

    def flash_attn_with_kvcache(
        q,
        k_cache,
        v_cache,
        k=None,
        v=None,
        qv=None,
        rotary_cos=None,
        rotary_sin=None,
        cache_seqlens=None,
        cache_batch_idx=None,
        cache_leftpad=None,
        page_table=None,
        cu_seqlens_q=None,
        cu_seqlens_k_new=None,
        max_seqlen_q=None,
        rotary_seqlens=None,
        q_descale=None,
        k_descale=None,
        v_descale=None,
        softmax_scale=None,
        causal=False,
        window_size=(-1, -1),
        attention_chunk=0,
        softcap=0.0,
        rotary_interleaved=True,
        scheduler_metadata=None,
        num_splits=0,
        pack_gqa=None,
        sm_margin=0,
        return_softmax_lse=False,
    ):
        assert num_splits == 0, "only its own heuristic fits every length"
        if cu_seqlens_q is None:
            assert max_seqlen_q is None
            check_heads(q, k_cache, v_cache, (4, 4, 4))
            rows = kvcache_rows(len(q), k_cache, cache_seqlens, cache_batch_idx)
            return batched(q, k_cache, v_cache, cache_seqlens, rows, causal)
        check_heads(q, k_cache, v_cache, (3, 4, 4))
        check_numbers(q, len(cu_seqlens_q), cu_seqlens_q)
        check_starts(cu_seqlens_q, len(q), max_seqlen_q)
        rows = kvcache_rows(len(cu_seqlens_q) - 1, k_cache, cache_seqlens, cache_batch_idx)
        begins = torch.tensor(rows) * k_cache.shape[1]
        k, v = k_cache.flatten(0, 1), v_cache.flatten(0, 1)
        return packed(q, cu_seqlens_q, k, v, begins, cache_seqlens, causal)

    return _module("flash_attn_interface", flash_attn_func, flash_attn_with_kvcache)


def varlen(q, k, v, cu_seq_q, cu_seq_k, max_q, max_k, causal, seqused_k):
    """The kernel behind both of PyTorch's entries; starts in k need not rise."""
    check_heads(q, k, v, (3, 3, 3))
    check_numbers(q, len(cu_seq_q), cu_seq_q, cu_seq_k)
    check_numbers(q, len(cu_seq_q) - 1, seqused_k)
    check_starts(cu_seq_q, len(q), max_q)
    assert seqused_k.max() <= max_k
    if max_q == 1:
        # Only without a window does the kernel split the keys, and then it wants a query each.
        assert not causal and len(q) == len(seqused_k)
    return packed(q, cu_seq_q, k, v, cu_seq_k[:-1], seqused_k, causal)


def varlen_attn(
    query,
    key,
    value,
    cu_seq_q,
    cu_seq_k,
    max_q,
    max_k,
    *,
    return_aux=None,
    scale=None,
    window_size=(-1, -1),
    enable_gqa=False,
    seqused_k=None,
    block_table=None,
    num_splits=None,
):
    """torch.nn.attention.varlen's, from torch 2.12."""
    assert enable_gqa or query.shape[1] == key.shape[1]
    assert window_size in ((-1, -1), (-1, 0))
    causal = window_size == (-1, 0)
    return varlen(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, causal, seqused_k)


def varlen_attn_of_2_11(
    query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, return_aux=None, scale=None, window_size
):
    """torch 2.11's, which has no lengths."""
    raise AssertionError("this one can't tell where a sequence ends")


def flash_attention_forward(
    query,
    key,
    value,
    cum_seq_q,
    cum_seq_k,
    max_q,
    max_k,
    dropout_p,
    is_causal,
    return_debug_mask,
    *,
    scale=None,
    window_size_left=None,
    window_size_right=None,
    seqused_k=None,
    alibi_slopes=None,
):
    """aten::_flash_attention_forward of torch 2.11."""
    assert dropout_p == 0.0 and not return_debug_mask
    out = varlen(query, key, value, cum_seq_q, cum_seq_k, max_q, max_k, is_causal, seqused_k)
    return out, *(out.new_empty(0) for _ in range(4))


def install(monkeypatch) -> None:
    """Put the stand-ins where the engine looks for the packages."""
    monkeypatch.setitem(sys.modules, "flash_attn", flash_attn())
    monkeypatch.setitem(sys.modules, "flash_attn_interface", flash_attn_interface())
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", varlen_attn)


def _module(name, *functions) -> ModuleType:
    module = ModuleType(name)
    for function in functions:
        setattr(module, function.__name__, function)
    return module
