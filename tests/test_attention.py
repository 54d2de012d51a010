"""Attention over the kv cache against a float64 restatement, one sequence and head at a time."""

from __future__ import annotations

import math

import pytest
import torch

from tempo_fast.checkpoint.config import DecoderConfig
from tempo_fast.engine.attention.plain import attend_cached, attend_dense
from tempo_fast.engine.kv_cache import KVCache


def cache_of(sequences: int, capacity: int, kv_heads: int = 2, head_dim: int = 16) -> KVCache:
    config = DecoderConfig(1, 8, 8, 4, kv_heads, head_dim, 8, 1e-6, 1e4)
    return KVCache(config, sequences, capacity, device=torch.device("cpu"), dtype=torch.float32)


def plain_attention(query, keys, values, packing):
    """softmax(q kᵀ / √d) v in float64, causally aligned to the end."""
    out, first = torch.empty_like(query, dtype=torch.float64), 0
    group = query.shape[1] // keys.shape[2]
    for row, new, past in zip(packing.rows, packing.new, packing.past, strict=True):
        for token in range(new):
            seen = past + token + 1
            for head in range(query.shape[1]):
                k = keys[row, :seen, head // group].double()
                v = values[row, :seen, head // group].double()
                score = k @ query[first + token, head].double() / math.sqrt(query.shape[2])
                out[first + token, head] = torch.softmax(score, 0) @ v
        first += new
    return out


@pytest.mark.parametrize("heads", [2, 4, 8])
@pytest.mark.parametrize(
    ("rows", "new", "past"),
    [
        ([0], [5], [0]),  # prefill from nothing
        ([0, 1, 2], [3, 3, 3], [4, 4, 4]),  # a dense batch
        ([0, 1, 2, 3], [1, 1, 1, 1], [7, 7, 2, 0]),  # one-token queries
        ([3, 0, 2], [4, 4, 1], [1, 1, 6]),  # rows out of order
        ([0, 1, 2], [3, 0, 3], [2, 2, 2]),  # an empty sequence between equal ones
        ([1, 2, 3], [63, 1, 31], [0, 66, 5]),  # odd lengths
    ],
)
def test_attention_equals_float64(heads, rows, new, past):
    generator = torch.Generator().manual_seed(0)
    cache = cache_of(4, 70)
    for tensor in (cache.keys[0], cache.values[0]):
        tensor.normal_(generator=generator)
    for row, length in zip(rows, past, strict=True):
        cache.lengths[row] = length
    packing = cache.pack(rows, new)
    # What lies behind a sequence's tokens must not be read.
    for row in range(4):
        used = sum(n + p for r, n, p in zip(rows, new, past, strict=True) if r == row)
        cache.keys[0][row, used:] = math.nan
        cache.values[0][row, used:] = math.nan
    query = torch.randn(packing.tokens, heads, 16, generator=generator)
    actual = attend_cached(query, cache.keys[0], cache.values[0], packing)
    expected = plain_attention(query, cache.keys[0], cache.values[0], packing)
    torch.testing.assert_close(actual, expected.float(), rtol=1e-5, atol=1e-6)


def test_frames_attend_to_themselves_only():
    q, k, v = torch.randn(3, 4, 6, 2, 8).unbind(0)
    together = attend_dense(q, k, v)
    for i in range(4):
        torch.testing.assert_close(
            together[i], attend_dense(q[i : i + 1], k[i : i + 1], v[i : i + 1])[0]
        )


def test_packing_places_tokens_and_groups_equal_neighbours():
    cache = cache_of(4, 10)
    cache.lengths = [2, 2, 0, 5]
    packing = cache.pack([0, 1, 2, 3], [3, 3, 0, 1])
    assert packing.slots.tolist() == [2, 3, 4, 12, 13, 14, 35]
    assert packing.cu_seqlens.tolist() == [0, 3, 6, 6, 7]
    assert [(r.tokens, r.rows, r.new, r.past) for r in packing.runs] == [
        (slice(0, 6), slice(0, 2), 3, 2),
        (slice(6, 7), slice(3, 4), 1, 5),
    ]
    last = cache.pack([0, 1], [3, 1])
    assert last.last.tolist() == [2, 3]
    assert last.only_last().past == (4, 2)


def test_cache_grows_and_keeps_what_it_holds():
    cache = cache_of(2, 4)
    cache.keys[0].normal_()
    before = cache.keys[0].clone()
    cache.lengths = [3, 4]
    packing = cache.pack([0, 1], [2, 1])
    assert (cache.capacity, packing.capacity) == (5, 5)
    assert torch.equal(cache.keys[0][:, :4], before)
    cache.commit(packing)
    assert cache.lengths == [5, 5]
    cache.rewind([3, 4])
    assert cache.lengths == [3, 4]


def test_spans_leave_out_empty_sequences_and_name_neighbouring_rows():
    config = DecoderConfig(1, 8, 8, 4, 2, 16, 8, 1e-6, 1e4)
    cache = KVCache(config, 5, 10, device=torch.device("cpu"), dtype=torch.float32)
    cache.lengths = [2, 2, 0, 5, 1]
    spans = cache.pack([0, 1, 2, 3], [3, 3, 0, 1]).spans
    assert spans.cu_seqlens_q.tolist() == [0, 3, 6, 7]
    assert spans.starts_k.tolist() == [0, 10, 30, 40]
    assert spans.seqused_k.tolist() == [5, 5, 6]
    assert spans.rows.tolist() == [0, 1, 3]
    assert (spans.max_q, spans.max_k, spans.ragged, spans.first_row) == (3, 6, True, None)
    spans = cache.pack([2, 3], [2, 2]).spans
    assert (spans.max_q, spans.max_k, spans.ragged, spans.first_row) == (2, 7, False, 2)
    rows, index = spans.rows_of(cache.keys[0])
    assert rows.data_ptr() == cache.keys[0][2].data_ptr() and len(rows) == 2 and index is None
    packing = cache.pack([4, 0], [1, 3])
    assert packing.spans.rows_of(cache.keys[0])[0] is cache.keys[0]
    places, starts = packing.gathered
    assert places.tolist() == [40, 41, 0, 1, 2, 3, 4] and starts.tolist() == [0, 2, 7]
    assert packing.spans is packing.spans


def test_what_lies_behind_cached_tokens_is_finite():
    torch.use_deterministic_algorithms(True)  # fills what is left uninitialized with NaN
    try:
        config = DecoderConfig(1, 8, 8, 4, 2, 16, 8, 1e-6, 1e4)
        cache = KVCache(config, 2, 4, device=torch.device("cpu"), dtype=torch.bfloat16)
        cache.reserve(9)
    finally:
        torch.use_deterministic_algorithms(False)
    assert cache.keys[0].isfinite().all() and cache.values[0].isfinite().all()
