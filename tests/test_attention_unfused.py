"""oneDNN's attention on a CPU: its errors, the bounds of its sums, and what it leaves."""

from __future__ import annotations

import math
import runpy
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import pytest
import torch

from tempo_fast import onednn
from tempo_fast.checkpoint.config import DecoderConfig
from tempo_fast.engine.attention import plain, unfused
from tempo_fast.engine.kv_cache import KVCache

# What every backend is tested with.
shared = SimpleNamespace(
    **runpy.run_path(str(Path(__file__).with_name("test_attention_backends.py")))
)
fake, PACKINGS, sdpa = shared.fake, shared.PACKINGS, shared.sdpa
filled_cache, one_by_one = shared.filled_cache, shared.one_by_one
assert_as_good = shared.assert_as_good

needs_onednn = pytest.mark.skipif(
    not onednn.AVAILABLE, reason="torch gives oneDNN no float32 products here (needs AVX-512)"
)


def always(monkeypatch):
    """Let `unfused` take what it isn't worth for, too."""
    monkeypatch.setattr(unfused, "FEWEST", 0)
    monkeypatch.setattr(unfused, "FEWEST_ROWS", 0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)


@needs_onednn
def test_onednn_takes_what_it_is_worth_for(monkeypatch):
    """One token after a long past would have all its keys moved, for nothing."""
    attend, sizes = unfused._attend, []
    monkeypatch.setattr(
        unfused,
        "_attend",
        lambda q, *rest, **how: sizes.append(q.shape[3]) or attend(q, *rest, **how),
    )
    config = DecoderConfig(1, 8, 8, 8, 2, 64, 8, 1e-6, 1e4)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    for new, past, taken in ((1, 4000, []), (47, 4000, []), (48, 4000, [48]), (60, 40, [])):
        cache = KVCache(config, 1, 4100, device=torch.device("cpu"), dtype=torch.float32)
        cache.lengths, sizes[:] = [past], []
        query = torch.randn(new, 8, 64)
        unfused.attend_cached(query, cache.keys[0], cache.values[0], cache.pack([0], [new]))
        assert sizes == taken
    for length, taken in ((100, []), (600, [600])):
        sizes.clear()
        unfused.attend_dense(*torch.randn(3, 1, length, 2, 64))
        assert sizes == taken
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    unfused.attend_dense(*torch.randn(3, 1, 600, 2, 64))
    assert sizes == [600]


@needs_onednn
@pytest.mark.parametrize("case", PACKINGS.values(), ids=PACKINGS)
@pytest.mark.parametrize("causal", [True, False], ids=["causal", "full"])
@pytest.mark.parametrize("queries", [256, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_onednns_cached_attention_is_as_good_as_pytorchs(case, causal, queries, dtype, monkeypatch):
    always(monkeypatch)
    monkeypatch.setattr(unfused, "CAUSAL_QUERIES", queries)
    monkeypatch.setattr(unfused, "BLOCK", queries * 64)
    monkeypatch.setattr(unfused, "ROWS", 8)
    monkeypatch.setattr(unfused, "STEP", 16)
    plain_runs = []
    monkeypatch.setattr(unfused.plain, "attend_run", plain_runs.append)
    for head_dim, kv_heads in ((16, 4), (64, 1), (128, 2)):
        cpu = torch.device("cpu")
        cache, packing = filled_cache(*case, kv_heads, head_dim, cpu, math.nan, dtype)
        query = torch.randn(packing.tokens, 8, head_dim, generator=torch.Generator().manual_seed(1))
        given = (query.to(dtype), cache.keys[0], cache.values[0], packing)
        exact = one_by_one(partial(fake.attention, causal=causal), *given)
        reference = one_by_one(partial(sdpa, causal=causal), *given)
        # Of few tokens PyTorch's own products are more exact: MKL sums blocks, oneDNN one chain.
        assert_as_good(unfused.attend_cached(*given, causal=causal), reference, exact, times=4)
    assert not plain_runs


@needs_onednn
@pytest.mark.parametrize("block", [1 << 20, 1000])
@pytest.mark.parametrize("shape", [(1, 1, 2, 64), (3, 131, 4, 16), (2, 64, 2, 72), (2, 257, 3, 64)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_onednns_dense_attention_is_as_good_as_pytorchs(shape, block, dtype, monkeypatch):
    always(monkeypatch)
    monkeypatch.setattr(unfused, "BLOCK", block)
    monkeypatch.setattr(unfused, "ROWS", 8)
    monkeypatch.setattr(unfused.plain, "attend_dense", None)
    generator = torch.Generator().manual_seed(0)
    qkv = torch.randn(*shape[:2], 3, *shape[2:], generator=generator).to(dtype)
    q, k, v = qkv.unbind(2)
    given = list(zip(q, k, v, strict=True))
    exact = torch.stack([fake.attention(*one, causal=False) for one in given])
    reference = torch.stack([sdpa(*one, causal=False) for one in given])
    found = unfused.attend_dense(q, k, v)
    assert_as_good(found, reference, exact, times=2 if shape[1] > 100 else 4)
    own, other = ((x - exact).square().mean().sqrt() for x in (found, reference))
    assert own <= (2 if shape[1] > 100 else 4) * other + torch.finfo(dtype).eps / 4


@needs_onednn
@pytest.mark.parametrize("scale", [40.0, 100.0, 3e10, math.inf, math.nan])
def test_scores_out_of_bounds_go_the_plain_way(scale, monkeypatch):
    """Without the softmax's shift, sums of their powers would be infinite, 0 or NaN."""
    always(monkeypatch)
    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 2, 67, 4, 64, generator=generator)
    k = k + 1  # its product with a vector of ones is about 64
    for sign in (1, -1):  # scores far above 0 in every row, and far below
        query = q * 0.1 + sign * scale / 8
        wanted = plain.attend_dense(query, k, v)
        with patch.object(plain, "attend_dense", wraps=plain.attend_dense) as taken:
            found = unfused.attend_dense(query, k, v)
        assert taken.called == (scale != 40.0)
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4, equal_nan=True)
        cache, packing = filled_cache(
            [0, 1], [67, 67], [0, 0], 4, 64, torch.device("cpu"), 0.0, torch.float32
        )
        given = (query.flatten(0, 1), cache.keys[0], cache.values[0], packing)
        for causal in (True, False):
            wanted = plain.attend_cached(*given, causal=causal)
            found = unfused.attend_cached(*given, causal=causal)
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4, equal_nan=True)


@needs_onednn
@pytest.mark.parametrize(("size", "taken"), [(1.0, True), (1e9, False), (math.nan, False)])
def test_values_that_would_overflow_go_the_plain_way(size, taken, monkeypatch):
    """Their product with powers that are fine themselves, before the sums divide it."""
    always(monkeypatch)
    q, k, v = torch.randn(3, 2, 67, 4, 64, generator=torch.Generator().manual_seed(0))
    q, k = q * 0.1 + 8.75, k * 0.1 + 1  # scores of about 70, powers of about 2^101
    v = v * size
    wanted = plain.attend_dense(q, k, v)
    with patch.object(plain, "attend_dense", wraps=plain.attend_dense) as fallback:
        found = unfused.attend_dense(q, k, v)
    assert fallback.called != taken
    scale = size if math.isfinite(size) else 1.0
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3 * scale, equal_nan=True)


@needs_onednn
def test_the_slow_path_of_onednn_is_never_taken(monkeypatch):
    """Weights that lie in no order take a thousand times as long."""
    always(monkeypatch)
    product, strides = onednn.linear, []

    def linear(x, weight, bias):
        rows, columns = weight.shape
        strides.append(weight.stride() in ((columns, 1), (1, rows)))
        return product(x, weight, bias)

    monkeypatch.setattr(onednn, "linear", linear)
    for shape in ((1, 70, 2, 16), (2, 70, 1, 16), (1, 70, 1, 1)):
        unfused.attend_dense(*torch.randn(3, *shape))
    for kv_heads, new in ((1, 3), (4, 70)):
        given = filled_cache([1], [new], [5], kv_heads, 16, torch.device("cpu"), 0.0, torch.float32)
        unfused.attend_cached(
            torch.randn(new, 4, 16), given[0].keys[0], given[0].values[0], given[1]
        )
    assert len(strides) > 10 and all(strides)


@needs_onednn
@pytest.mark.parametrize("shape", [(0, 600, 2, 64), (2, 0, 2, 64), (2, 600, 0, 64)])
def test_nothing_attends_to_nothing(shape):
    assert unfused.attend_dense(*torch.randn(3, *shape)).shape == shape


@needs_onednn
def test_what_is_learnt_goes_the_plain_way(monkeypatch):
    always(monkeypatch)
    q, k, v = torch.randn(3, 1, 70, 2, 16)
    assert unfused.attend_dense(q.requires_grad_(), k, v).requires_grad
    cache, packing = filled_cache([0], [70], [0], 2, 16, torch.device("cpu"), 0.0, torch.float32)
    given = (q[0], cache.keys[0], cache.values[0], packing)
    assert unfused.attend_cached(*given).requires_grad
    with torch.no_grad():
        double = [x.double() for x in given[:3]]
        assert unfused.attend_cached(*double, packing).dtype == torch.float64
