"""Norm, rotation and cache write of packed qkv against PyTorch, published code and float64."""

from __future__ import annotations

import pytest
import torch
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm, apply_rotary_pos_emb

from tempo_kernels.qk_norm_rope import qk_norm_rope, qk_norm_rope_ref

from .tolerances import assert_rounds_alike

EPS = 1e-6
DTYPES = [torch.float32, torch.bfloat16]
NAMES = ("qkv", "q_weight", "k_weight", "cos", "sin", "slots", "keys", "values")


def make(tokens, heads, kv_heads, dim, dtype, device, *, rows=3):
    """The arguments by name; the cache is NaN with a few places more than tokens."""
    torch.manual_seed(0)
    capacity = -(-tokens // rows) + 2
    angle = 10 * torch.randn(tokens, dim // 2).repeat(1, 2)
    tensors = {
        "qkv": torch.randn(tokens, (heads + 2 * kv_heads) * dim),
        "q_weight": 1 + 0.3 * torch.randn(dim),
        "k_weight": 1 + 0.3 * torch.randn(dim),
        "cos": angle.cos(),
        "sin": angle.sin(),
        "keys": torch.full((rows, capacity, kv_heads, dim), float("nan")),
        "values": torch.full((rows, capacity, kv_heads, dim), float("nan")),
    }
    given = {name: tensor.to(device, dtype) for name, tensor in tensors.items()}
    given["slots"] = torch.randperm(rows * capacity)[:tokens].to(device)
    return {name: given[name] for name in NAMES}


def with_own_cache(given):
    return given | {"keys": given["keys"].clone(), "values": given["values"].clone()}


def exact(given, heads, kv_heads):
    """Query, and the keys by token, in float64."""
    x = given["qkv"].double().unflatten(-1, (-1, given["q_weight"].shape[0]))
    cos, sin = given["cos"].double()[:, None], given["sin"].double()[:, None]

    def turned(part, weight):
        n = part * torch.rsqrt(part.square().mean(-1, keepdim=True) + EPS) * weight.double()
        first, second = n.chunk(2, -1)
        return n * cos + torch.cat((-second, first), -1) * sin

    q, k, _ = x.split((heads, kv_heads, kv_heads), 1)
    return turned(q, given["q_weight"]), turned(k, given["k_weight"])


@pytest.mark.parametrize(
    ("tokens", "heads", "kv_heads", "dim", "dtype"),
    [
        *((1, 16, 8, 128, dtype) for dtype in DTYPES),
        *((2, 32, 8, 128, dtype) for dtype in DTYPES),
        *((3, 9, 9, 128, dtype) for dtype in DTYPES),
        (7, 2, 1, 6, torch.float32),
        (63, 3, 1, 32, torch.bfloat16),
        (131, 2, 2, 16, torch.float32),
    ],
    ids=str,
)
def test_as_good_as_pytorch(device, as_good, tokens, heads, kv_heads, dim, dtype):
    given = make(tokens, heads, kv_heads, dim, dtype, device)
    theirs = with_own_cache(given)
    out = torch.full((tokens, heads, dim), float("nan"), dtype=dtype, device=device)
    sizes = {"heads": heads, "kv_heads": kv_heads}
    assert qk_norm_rope(**given, eps=EPS, **sizes, out=out) is out
    reference = qk_norm_rope_ref(**theirs, eps=EPS, **sizes)
    query, key = exact(given, heads, kv_heads)
    slots = given["slots"]
    keys, ref_keys = (cache["keys"].flatten(0, 1) for cache in (given, theirs))
    as_good(out, reference, query, "qk_norm_rope")
    as_good(keys[slots], ref_keys[slots], key, "qk_norm_rope")
    if out.numel() > 1000:  # of a few values, one is a large share
        assert_rounds_alike(out, reference)
        assert_rounds_alike(keys[slots], ref_keys[slots])
    # Values only move, and no other place of the cache is written.
    torch.testing.assert_close(given["values"], theirs["values"], rtol=0, atol=0, equal_nan=True)
    assert torch.equal(given["keys"].isnan(), theirs["keys"].isnan())


@pytest.mark.parametrize("slot", [-1, 9, 2**40])
def test_a_place_out_of_range_is_not_cached(device, check_indices, slot):
    check_indices("never")
    given = make(2, 2, 1, 8, torch.float32, device, rows=1)
    buffer = torch.full((2, 5, 9, 1, 8), 7.0, device=device)
    given |= {"keys": buffer[0, 2:3], "values": buffer[1, 2:3]}  # 7s before and after
    given["slots"] = torch.tensor([slot, 3], device=device)
    query = qk_norm_rope(**given, eps=EPS, heads=2, kv_heads=1)
    assert torch.isfinite(query).all()
    written = (buffer != 7).flatten(0, 2).flatten(1).any(-1).nonzero().flatten().tolist()
    assert written == [2 * 9 + 3, 5 * 9 + 2 * 9 + 3]


def test_no_tokens(device):
    given = make(0, 4, 2, 16, torch.bfloat16, device)
    assert qk_norm_rope(**given, eps=EPS, heads=4, kv_heads=2).shape == (0, 4, 16)
    assert given["keys"].isnan().all()


@torch.no_grad()
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_reference_is_the_published_attention(dtype):
    given = make(5, 4, 2, 16, dtype, "cpu")
    q, k, v = given["qkv"].unflatten(-1, (-1, 16)).split((4, 2, 2), dim=1)
    normed = []
    for part, weight in ((q, given["q_weight"]), (k, given["k_weight"])):
        module = Qwen3RMSNorm(16, EPS).to(dtype)
        module.weight.copy_(weight)
        normed.append(module(part))
    query, key = apply_rotary_pos_emb(*normed, given["cos"], given["sin"])
    result = qk_norm_rope_ref(**given, eps=EPS, heads=4, kv_heads=2)
    assert torch.equal(result, query)
    assert torch.equal(given["keys"].flatten(0, 1)[given["slots"]], key)
    assert torch.equal(given["values"].flatten(0, 1)[given["slots"]], v)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"qkv": lambda t: t.half()}, "qkv is torch.float16"),
        ({"qkv": lambda t: t[:, :-1].contiguous()}, "qkv has shape"),
        ({"qkv": lambda t: t.t().contiguous().t()}, "qkv has strides"),
        ({"q_weight": lambda t: t.half()}, "q_weight is torch.float16"),
        ({"q_weight": lambda t: t[:7]}, "q_weight has 7 values"),
        ({"k_weight": lambda t: t[:-1]}, "k_weight has shape"),
        ({"cos": lambda t: t[:, None]}, "cos has shape"),
        ({"sin": lambda t: t.double()}, "sin is torch.float64"),
        ({"slots": lambda t: t.int()}, "slots is torch.int32"),
        ({"slots": lambda t: t[:-1]}, "slots has shape"),
        ({"slots": lambda t: t - 2**40}, "slots has -[0-9]+; 0 to [0-9]+ is needed"),
        ({"keys": lambda t: t[:, :, :1]}, "keys has shape"),
        ({"keys": lambda t: t[:, 1:]}, "keys has strides"),
        ({"values": lambda t: t[:-1]}, "values has shape"),
        ({"values": lambda t: t.to("meta")}, "values is on meta"),
        ({"heads": lambda h: 0}, "heads is 0"),
        ({"kv_heads": lambda h: 2.0}, "kv_heads 2.0"),
        ({"out": lambda o: o[:-1]}, "out has shape"),
    ],
)
def test_bad_input_is_a_value_error(device, check_indices, change, message):
    check_indices("always")
    given = make(4, 4, 2, 8, torch.float32, device)
    given |= {"heads": 4, "kv_heads": 2, "out": torch.empty(4, 4, 8, device=device)}
    given = {name: change.get(name, lambda t: t)(value) for name, value in given.items()}
    with pytest.raises(ValueError, match=message):
        qk_norm_rope(**given, eps=EPS)
