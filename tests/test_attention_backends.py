"""One test of correctness for every backend of attention.

On a GPU it runs for what is installed. Elsewhere it runs for plain SDPA, and for the others on
stand-ins (`fake_flash.py`) that check the arguments as the packages do.
"""

from __future__ import annotations

import math
import runpy
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.nn.attention import varlen as torch_varlen
from torch.nn.functional import scaled_dot_product_attention

from tempo_fast.checkpoint.config import DecoderConfig
from tempo_fast.engine.attention import CACHED, DENSE, Site
from tempo_fast.engine.graphs import graphs_for
from tempo_fast.engine.kv_cache import KVCache
from tempo_fast.engine.step import Step
from tempo_fast.models.decoder import Attention, Decoder

fake = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("fake_flash.py"))))

# rows, new tokens and cached tokens of each sequence
PACKINGS = {
    "prefill from nothing": ([0], [5], [0]),
    "equal batch on a past": ([0, 1, 2], [3, 3, 3], [4, 4, 4]),
    "equal batch, unequal past": ([1, 2, 3], [7, 7, 7], [0, 61, 30]),
    "one-token queries": ([0, 1, 2, 3], [1, 1, 1, 1], [7, 130, 2, 0]),
    "one-token query of one row": ([2], [1], [130]),
    "rows out of order": ([3, 0, 2], [4, 4, 4], [1, 1, 6]),
    "one-token queries out of order": ([3, 1], [1, 1], [129, 64]),
    "ragged, rows out of order": ([3, 0, 2], [4, 1, 17], [1, 65, 6]),
    "an empty sequence between": ([0, 1, 2], [3, 0, 3], [2, 2, 2]),
    "empty ones around a token": ([0, 1, 2], [0, 1, 0], [2, 9, 2]),
    "odd lengths": ([1, 2, 3], [63, 1, 67], [0, 66, 5]),
    "nothing": ([0, 1], [0, 0], [3, 0]),
}


@pytest.fixture(params=["here", pytest.param("gpu", marks=pytest.mark.gpu)])
def device(request) -> torch.device:
    """Where the tensors are: on the CPU, with stand-ins, and on a GPU, with the real packages."""
    if request.param == "here":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        pytest.skip("no CUDA GPU here")
    return torch.device("cuda", torch.cuda.current_device())


@pytest.fixture
def stand_ins(monkeypatch):
    fake.install(monkeypatch)


def prepared(wanted, device, head_dim, request):
    """The backend's function on `device`: the real one, or on a CPU on stand-ins."""
    if device.type == "cpu":
        request.getfixturevalue("stand_ins")
    else:
        lacking = wanted.missing(Site(device, torch.bfloat16, head_dim))
        if lacking is not None:
            pytest.skip(f"{wanted.name} {lacking}")
    return wanted.attend


def filled_cache(rows, new, past, kv_heads, head_dim, device, garbage, dtype=torch.bfloat16):
    """A cache with random tokens, `garbage` behind each sequence's; and the packing."""
    generator = torch.Generator().manual_seed(0)
    config = DecoderConfig(1, 8, 8, 4, kv_heads, head_dim, 8, 1e-6, 1e4)
    cache = KVCache(config, 4, 140, device=device, dtype=dtype)
    for row, length in zip(rows, past, strict=True):
        cache.lengths[row] = length
    packing = cache.pack(rows, new)
    for cached in (cache.keys[0], cache.values[0]):
        cached.copy_(torch.randn(cached.shape, generator=generator))
        for row in range(4):
            used = sum(n + p for r, n, p in zip(rows, new, past, strict=True) if r == row)
            cached[row, used:] = garbage
    return cache, packing


def one_by_one(attend, query, keys, values, packing):
    """attend(q, k, v) of each sequence's own tokens, [tokens, heads, head_dim] each."""
    outs, first = [], 0
    for row, new, past in zip(packing.rows, packing.new, packing.past, strict=True):
        q, total = query[first : first + new], past + new
        outs.append(attend(q, keys[row, :total], values[row, :total]))
        first += new
    return torch.cat(outs)


def sdpa(q, k, v, causal):
    """PyTorch's own in the tensors' dtype, with nothing of ours: what errors are measured by."""
    mask = torch.ones(len(q), len(k), dtype=torch.bool, device=q.device).tril(len(k) - len(q))
    q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
    out = scaled_dot_product_attention(q, k, v, attn_mask=mask if causal else None, enable_gqa=True)
    return out[0].transpose(0, 1)


def assert_as_good(actual, reference, exact, times=2):
    """At most twice the reference's error, and a rounding where that was exact by luck."""
    assert (actual.shape, actual.dtype) == (reference.shape, reference.dtype)
    if not actual.numel():
        return
    error, allowed = ((x.double() - exact).abs().max() for x in (actual, reference))
    unit = times / 8 * torch.finfo(actual.dtype).eps * exact.abs().max()
    assert error <= times * allowed + unit, f"error {error:.2e}, PyTorch's {allowed:.2e}"


@pytest.mark.parametrize("wanted", CACHED, ids=lambda each: each.name)
@pytest.mark.parametrize("case", PACKINGS.values(), ids=PACKINGS)
@pytest.mark.parametrize("causal", [True, False], ids=["causal", "full"])
def test_cached_attention_is_as_good_as_pytorchs(wanted, case, causal, device, request):
    # NaN where nothing should be read; FlashAttention-3 only takes finite values there.
    garbage = math.nan if device.type == "cpu" else 1e4
    for head_dim, kv_heads in ((64, 4), (64, 2), (64, 1), (128, 4), (128, 2), (128, 1)):
        attend = prepared(wanted, device, head_dim, request)
        cache, packing = filled_cache(*case, kv_heads, head_dim, device, garbage)
        generator = torch.Generator().manual_seed(1)
        query = torch.randn(packing.tokens, 8, head_dim, generator=generator)
        given = (query.to(device, torch.bfloat16), cache.keys[0], cache.values[0], packing)
        exact = one_by_one(partial(fake.attention, causal=causal), *given)
        reference = one_by_one(partial(sdpa, causal=causal), *given)
        assert_as_good(attend(*given, causal=causal), reference, exact)


@pytest.mark.parametrize("wanted", CACHED, ids=lambda each: each.name)
def test_a_token_after_a_long_past(wanted, device, request):
    """Where the real kernels split the keys across the chip."""
    attend = prepared(wanted, device, 128, request)
    config = DecoderConfig(1, 8, 8, 32, 8, 128, 8, 1e-6, 1e4)
    past = 8500 if device.type == "cuda" else 300
    cache = KVCache(config, 1, past + 100, device=device, dtype=torch.bfloat16)
    for cached in (cache.keys[0], cache.values[0]):
        cached.normal_(generator=torch.Generator(device).manual_seed(0))
    cache.lengths = [past]
    query = torch.randn(1, 32, 128, device=device).bfloat16()
    given = (query, cache.keys[0], cache.values[0], cache.pack([0], [1]))
    exact = one_by_one(partial(fake.attention, causal=True), *given)
    reference = one_by_one(partial(sdpa, causal=True), *given)
    assert_as_good(attend(*given), reference, exact)


@pytest.mark.parametrize("head_dim, kv_heads", [(64, 4), (64, 1), (128, 2)])
@pytest.mark.parametrize("wanted", CACHED, ids=lambda each: each.name)
def test_a_captured_steps_attention_is_as_good_as_pytorchs(
    wanted, head_dim, kv_heads, device, request
):
    """By the backend where its call can be replayed: captured once, replayed for each length."""
    prepared(wanted, device, head_dim, request)
    config = DecoderConfig(1, 64, 64, 8, kv_heads, head_dim, 64, 1e-6, 1e4)
    where = {"device": device, "dtype": torch.bfloat16}
    attention = Attention(config, wanted, **where)
    attention.o_proj = torch.nn.Identity()
    bucket = 9216 if device.type == "cuda" else 384
    cache = KVCache(config, 1, bucket + 128, **where)
    for cached in (cache.keys[0], cache.values[0]):
        cached.normal_(generator=torch.Generator(device).manual_seed(0))
    query = torch.randn(1, 8, head_dim, device=device).bfloat16()
    position = torch.zeros(1, dtype=torch.int64, device=device)
    found = torch.empty(1, 8 * head_dim, **where)

    @torch.inference_mode()
    def run():
        step = Step(position, bucket, cache)
        found.copy_(attention(query, cache.keys[0], cache.values[0], step))

    replay = graphs_for(device).capture(run, position.zero_)
    for past in (0, 62, bucket // 2 + 1, bucket - 1):
        position.fill_(past)
        replay()
        cache.lengths = [past]
        given = (query, cache.keys[0], cache.values[0], cache.pack([0], [1]))
        exact = one_by_one(partial(fake.attention, causal=True), *given)
        reference = one_by_one(partial(sdpa, causal=True), *given)
        assert_as_good(found.view(1, 8, head_dim), reference, exact)


def test_a_captured_step_goes_through_the_backend_that_was_chosen(monkeypatch):
    """Every FlashAttention, which alone splits the keys of one query across the chip."""
    monkeypatch.setattr(Step, "attend", lambda *_: torch.zeros(1, 8, 16))
    config = DecoderConfig(1, 64, 64, 8, 2, 16, 64, 1e-6, 1e4)
    where = {"device": torch.device("cpu"), "dtype": torch.float32}
    cache = KVCache(config, 1, 16, **where)
    step = Step(torch.zeros(1, dtype=torch.int64), 8, cache)
    for wanted in CACHED:
        asked = []
        watched = replace(wanted, attend=lambda q, k, v, p, a=asked: a.append(p) or q)
        Attention(config, watched, **where)(torch.zeros(1, 8, 16), *cache.keys, *cache.values, step)
        assert asked == ([step] if wanted.name in ("fa3", "varlen", "fa2") else [])


@pytest.mark.parametrize("wanted", DENSE, ids=lambda each: each.name)
@pytest.mark.parametrize("shape", [(1, 1, 2, 64), (3, 131, 4, 64), (2, 64, 2, 72), (2, 77, 3, 128)])
def test_dense_attention_is_as_good_as_pytorchs(wanted, shape, device, request):
    attend = prepared(wanted, device, shape[-1], request)
    generator = torch.Generator().manual_seed(0)
    qkv = torch.randn(*shape[:2], 3, *shape[2:], generator=generator).to(device, torch.bfloat16)
    q, k, v = qkv.unbind(2)  # strided, as the vision encoder gives them
    given = list(zip(q, k, v, strict=True))
    exact = torch.stack([fake.attention(*one, causal=False) for one in given])
    reference = torch.stack([sdpa(*one, causal=False) for one in given])
    assert_as_good(attend(q, k, v), reference, exact)


def test_torch_2_11_goes_through_the_operator(monkeypatch, request):
    monkeypatch.setattr(torch_varlen, "varlen_attn", fake.varlen_attn_of_2_11)
    operators = SimpleNamespace(_flash_attention_forward=fake.flash_attention_forward)
    monkeypatch.setattr(torch, "ops", SimpleNamespace(aten=operators))
    wanted = next(each for each in CACHED if each.name == "varlen")
    for case in PACKINGS.values():
        cache, packing = filled_cache(*case, 2, 64, torch.device("cpu"), math.nan)
        query = torch.randn(packing.tokens, 8, 64).bfloat16()
        given = (query, cache.keys[0], cache.values[0], packing)
        exact = one_by_one(partial(fake.attention, causal=True), *given)
        assert torch.equal(wanted.attend(*given), exact.bfloat16())


def test_the_first_fa3_release_returns_more(monkeypatch):
    first = fake.flash_attn_interface(first_release=True)
    monkeypatch.setitem(sys.modules, "flash_attn_interface", first)
    q = torch.randn(2, 5, 2, 64).bfloat16()
    assert torch.equal(DENSE[0].attend(q, q, q), fake.dense(q, q, q, False))


STEPS = [([5, 3, 9], "all"), ([1, 1, 1], "all"), ([0, 4, 2], "all"), ([6, 6, 6], "last")]


@pytest.mark.parametrize("wanted", CACHED[:-1], ids=lambda each: each.name)
def test_a_decoder_through_each_backend(wanted, stand_ins, monkeypatch):
    """Every kind of extend, last tokens alone included, agrees with the decoder on plain SDPA."""
    config = DecoderConfig(2, 32, 48, 8, 2, 16, 50, 1e-6, 1e4)
    torch.manual_seed(0)
    where = {"device": torch.device("cpu"), "dtype": torch.bfloat16}
    plain = Decoder(config, **where)
    for parameter in plain.parameters():
        parameter.normal_(std=0.2 if parameter.ndim > 1 else 1.0)
    monkeypatch.setattr("tempo_fast.models.decoder.choose_cached", lambda site: wanted)
    other = Decoder(config, **where)
    other.load_state_dict(plain.state_dict())
    assert other.attention is wanted
    results = []
    for decoder in (plain, other):
        cache, hidden = decoder.new_cache(3, 4), []
        ids = torch.arange(50).repeat(2)
        for new, outputs in STEPS:
            packing = cache.pack(range(3), new)
            steps = [p + torch.arange(n) for p, n in zip(packing.past, new, strict=True)]
            embeds = decoder.embed(ids[: packing.tokens])
            hidden.append(decoder.extend(embeds, torch.cat(steps), packing, cache, outputs=outputs))
        results.append(torch.cat(hidden))
    error = (results[1] - results[0]).abs().max() / results[0].abs().max()
    assert error < 0.02  # bfloat16 roundings through two layers; a wrong key is off by far more


@pytest.mark.gpu
@pytest.mark.parametrize("wanted", CACHED[:-1], ids=lambda each: each.name)
def test_nothing_waits_for_the_device_and_a_graph_can_be_replayed(wanted, request):
    """Captured once, replayed on other lengths by new numbers in the same tensors."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA GPU here")
    device = torch.device("cuda", torch.cuda.current_device())
    attend = prepared(wanted, device, 128, request)
    cases = [([0, 1, 2], [1, 1, 1], past) for past in ([7, 100, 130], [120, 3, 60])]
    caches, packings = zip(
        *(filled_cache(*case, 2, 128, device, 1e4) for case in cases), strict=True
    )
    query = torch.randn(3, 8, 128, device=device).bfloat16()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for packing in packings:
            assert packing.spans and packing.gathered and packing.slots is not None
        attend(query, caches[0].keys[0], caches[0].values[0], packings[0])
    finally:
        torch.cuda.set_sync_debug_mode("default")
    keys, values = caches[0].keys[0].clone(), caches[0].values[0].clone()
    longest = packings[0]
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = attend(query, keys, values, longest)
    for cache, packing in zip(caches, packings, strict=True):
        expected = one_by_one(
            partial(fake.attention, causal=True), query, cache.keys[0], cache.values[0], packing
        )
        keys.copy_(cache.keys[0])
        values.copy_(cache.values[0])
        longest.spans.seqused_k.copy_(packing.spans.seqused_k)
        graph.replay()
        assert (out.double() - expected).abs().max() < 0.02 * expected.abs().max()


def test_the_tests_own_reference_is_softmax_of_products():
    q, k, v = (torch.randn(n, 2, 4, dtype=torch.float64) for n in (3, 5, 5))
    out = fake.attention(q, k, v, causal=True)
    for token in range(3):
        for head in range(2):
            score = k[: token + 3, head] @ q[token, head] / 2
            torch.testing.assert_close(out[token, head], score.softmax(0) @ v[: token + 3, head])
