"""Per-head RMSNorm of query and key, rotary embedding, and the write into the kv cache.

    n = round(weight · round(x / sqrt(mean(x²) + eps)))               x: one head, [Dh]
    y = round(round(n · cos) + round((−n[H:], n[:H]) · sin)),  H = Dh / 2

of packed qkv [T, (heads + 2 kv_heads) · Dh], query heads first: y of the query heads is returned,
y of the key heads and the value heads as they are go to rows `slots` of the cache. bfloat16 or
float32 throughout; arithmetic is float32 and `round` is to the dtype, where PyTorch's modules
round. No fused multiply-add, so that float32 rounds likewise. One pass: each head is read once and
written once; nothing is kept between.

cos, sin: [T, Dh] with both halves alike, as `rope_tables` makes them; the first is read.

Source: Qwen3's attention (arXiv 2505.09388); Su et al. 2021 (arXiv 2104.09864), halves rotated.
"""

from __future__ import annotations

import torch

from tempo_kernels.language import tl, triton
from tempo_kernels.launch import Variant, check, check_indices, check_tensor, next_power_of_2
from tempo_kernels.rounding import rounded

DTYPES = (torch.bfloat16, torch.float32)


def _config(head_dim: int) -> tuple[int, int, int]:
    """Heads of a program, columns of a half head's tile, and warps.

    1024 values in 64 threads at Dh 128: a 16-byte load of either half a thread in bfloat16.
    """
    block = next_power_of_2(head_dim // 2)
    group = max(1, 512 // block)
    return group, block, max(1, group * block // 256)


@triton.jit
def _norm_and_turn(p_head, o, m, o_h, weight, cos, sin, eps, H: tl.constexpr, dtype: tl.constexpr):
    """Both halves [GROUP, BLOCK_H] of normalised and rotated heads, float32."""
    # [GROUP, BLOCK_H] twice
    b_first = tl.load(p_head + o, mask=m, other=0.0).to(tl.float32)
    b_second = tl.load(p_head + o + H, mask=m, other=0.0).to(tl.float32)
    # [GROUP, BLOCK_H] four times: a row for each head costs cache hits, and one row for all of them
    # would cost an exchange between the threads
    b_weight1 = tl.load(weight + o_h, mask=m, other=0.0).to(tl.float32)
    b_weight2 = tl.load(weight + o_h + H, mask=m, other=0.0).to(tl.float32)
    b_cos = tl.load(cos + o_h, mask=m, other=0.0).to(tl.float32)
    b_sin = tl.load(sin + o_h, mask=m, other=0.0).to(tl.float32)
    squares = tl.sum(b_first * b_first + b_second * b_second, axis=1)
    scale = tl.rsqrt(squares * (0.5 / H) + eps)[:, None]
    b_first = rounded(b_weight1 * rounded(b_first * scale, dtype), dtype)
    b_second = rounded(b_weight2 * rounded(b_second * scale, dtype), dtype)
    b_turned1 = rounded(b_first * b_cos, dtype) - rounded(b_second * b_sin, dtype)
    b_turned2 = rounded(b_second * b_cos, dtype) + rounded(b_first * b_sin, dtype)
    return rounded(b_turned1, dtype), rounded(b_turned2, dtype)


@triton.jit(do_not_specialize=["places"])
def _qk_norm_rope_kernel(
    qkv,
    q_weight,
    k_weight,
    cos,
    sin,
    slots,
    query,
    keys,
    values,
    places,
    eps,
    Q_HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    H: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK_H: tl.constexpr,
):
    dtype: tl.constexpr = qkv.dtype.element_ty
    # The programs of one token are neighbours: query groups, key groups, value groups.
    q_groups: tl.constexpr = (Q_HEADS + GROUP - 1) // GROUP
    kv_groups: tl.constexpr = (KV_HEADS + GROUP - 1) // GROUP
    groups: tl.constexpr = q_groups + 2 * kv_groups
    i_t = (tl.program_id(0) // groups).to(tl.int64)
    i_group = tl.program_id(0) % groups
    # [GROUP, BLOCK_H], all rows alike
    o_h = tl.arange(0, BLOCK_H)[None, :] + tl.zeros((GROUP, 1), tl.int32)
    m_h = o_h < H
    cos += i_t * 2 * H
    sin += i_t * 2 * H
    p_token = qkv + i_t * (Q_HEADS + 2 * KV_HEADS) * 2 * H

    if i_group < q_groups:
        i_head = i_group * GROUP + tl.arange(0, GROUP)
        o = i_head[:, None] * 2 * H + o_h
        m = (i_head < Q_HEADS)[:, None] & m_h
        b_first, b_second = _norm_and_turn(p_token, o, m, o_h, q_weight, cos, sin, eps, H, dtype)
        p_query = query + i_t * Q_HEADS * 2 * H + o
        tl.store(p_query, b_first, mask=m)
        tl.store(p_query + H, b_second, mask=m)
    else:
        i_slot = tl.load(slots + i_t)
        i_kv = i_group - q_groups
        i_head = i_kv % kv_groups * GROUP + tl.arange(0, GROUP)
        o = i_head[:, None] * 2 * H + o_h
        m = (i_head < KV_HEADS)[:, None] & m_h
        cached = (i_slot >= 0) & (i_slot < places)
        o_cache = i_slot * KV_HEADS * 2 * H + o
        if i_kv < kv_groups:
            p_key = p_token + Q_HEADS * 2 * H
            b_first, b_second = _norm_and_turn(p_key, o, m, o_h, k_weight, cos, sin, eps, H, dtype)
            if cached:
                tl.store(keys + o_cache, b_first, mask=m)
                tl.store(keys + o_cache + H, b_second, mask=m)
        else:
            p_value = p_token + (Q_HEADS + KV_HEADS) * 2 * H + o
            # [GROUP, BLOCK_H] twice, moved as they are
            b_value1 = tl.load(p_value, mask=m)
            b_value2 = tl.load(p_value + H, mask=m)
            if cached:
                tl.store(values + o_cache, b_value1, mask=m)
                tl.store(values + o_cache + H, b_value2, mask=m)


def qk_norm_rope(
    qkv: torch.Tensor,
    q_weight: torch.Tensor,
    k_weight: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    slots: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    eps: float,
    *,
    heads: int,
    kv_heads: int,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Query [T, heads, Dh] of qkv [T, (heads + 2 kv_heads) · Dh], into `out` if given.

    q_weight, k_weight: [Dh]. cos, sin: [T, Dh]. slots: int64 [T], each token's place in keys and
    values [n, capacity, kv_heads, Dh] seen as [n · capacity] places, none of them twice. A place
    out of range is an error where indices are looked at (`check_indices`); else it isn't cached.
    Raises ValueError for shapes, strides, dtypes, devices or slots that don't fit.
    """
    check(
        isinstance(heads, int) and isinstance(kv_heads, int) and heads > 0 and kv_heads > 0,
        f"heads is {heads!r} and kv_heads {kv_heads!r}; whole numbers of at least 1 are needed",
    )
    check_tensor("q_weight", q_weight, shape=(None,), dtypes=DTYPES)
    dim, like = q_weight.shape[0], {"dtypes": q_weight.dtype, "device": q_weight.device}
    check(dim > 0 and dim % 2 == 0, f"q_weight has {dim} values; heads of an even size are needed")
    check_tensor("k_weight", k_weight, shape=(dim,), **like)
    check_tensor("qkv", qkv, shape=(None, (heads + 2 * kv_heads) * dim), **like)
    tokens = qkv.shape[0]
    check_tensor("cos", cos, shape=(tokens, dim), **like)
    check_tensor("sin", sin, shape=(tokens, dim), **like)
    check_tensor("slots", slots, shape=(tokens,), dtypes=torch.int64, device=qkv.device)
    check_tensor("keys", keys, shape=(None, None, kv_heads, dim), **like)
    check_tensor("values", values, shape=tuple(keys.shape), **like)
    places = keys.shape[0] * keys.shape[1]
    check_indices("slots", slots, places)
    if out is None:
        out = qkv.new_empty(tokens, heads, dim)
    else:
        check_tensor("out", out, shape=(tokens, heads, dim), **like)
    if tokens:
        group, block_h, warps = _config(dim)
        groups = triton.cdiv(heads, group) + 2 * triton.cdiv(kv_heads, group)
        _qk_norm_rope_kernel[(tokens * groups,)](
            qkv,
            q_weight,
            k_weight,
            cos,
            sin,
            slots,
            out,
            keys,
            values,
            places,
            eps,
            Q_HEADS=heads,
            KV_HEADS=kv_heads,
            H=dim // 2,
            GROUP=group,
            BLOCK_H=block_h,
            num_warps=warps,
            enable_fp_fusion=False,
        )
    return out


def qk_norm_rope_ref(
    qkv: torch.Tensor,
    q_weight: torch.Tensor,
    k_weight: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    slots: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    eps: float,
    *,
    heads: int,
    kv_heads: int,
) -> torch.Tensor:
    """`qk_norm_rope` in plain PyTorch; a place beyond the cache is an error here."""

    def norm_and_turn(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        wide = x.float()
        scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
        normed = weight * (wide * scale).to(x.dtype)
        first, second = normed.chunk(2, dim=-1)
        return normed * cos[:, None] + torch.cat((-second, first), dim=-1) * sin[:, None]

    packed = qkv.unflatten(-1, (-1, q_weight.shape[0]))
    q, k, v = packed.split((heads, kv_heads, kv_heads), dim=1)
    keys.flatten(0, 1)[slots] = norm_and_turn(k, k_weight)
    values.flatten(0, 1)[slots] = v
    return norm_and_turn(q, q_weight)


def variants() -> list[Variant]:
    """The attention sizes of compressor (16 and 8 heads) and language model (32 and 8), Dh 128."""
    group, block_h, warps = _config(128)
    tensors = ("qkv", "q_weight", "k_weight", "cos", "sin", "query", "keys", "values")
    sizes = {"KV_HEADS": 8, "H": 64, "GROUP": group, "BLOCK_H": block_h}
    return [
        Variant(
            f"{dtype}, heads {heads}/8",
            _qk_norm_rope_kernel,
            dict.fromkeys(tensors, f"*{dtype}") | {"slots": "*i64", "places": "i32", "eps": "fp32"},
            {"Q_HEADS": heads, **sizes},
            (*tensors, "slots"),
            num_warps=warps,
            fp_fusion=False,
        )
        for dtype in ("bf16", "fp32")
        for heads in (16, 32)
    ]
