"""The strategies: published packed tokens, which tokens and how many, and bad input."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from tempo_fast.compression.allocation import Allocation, allocate
from tempo_fast.compression.merging import merge_tokens
from tempo_fast.compression.strategies import Strategy, strategy_of
from tempo_fast.errors import ModelError, OptionError
from tempo_fast.options import PRUNINGS, STRATEGIES, AskOptions

GOLDEN = load_file(Path(__file__).parent / "golden" / "allocation.safetensors")
FEATURES = GOLDEN["strategy.features"]  # [6, 16, 8]
SCORES = GOLDEN["strategy.scores"]


def numbered(segments: int, tokens: int) -> torch.Tensor:
    """Memory [S, M, 2] that says of each token (segment, place)."""
    places = torch.cartesian_prod(torch.arange(segments), torch.arange(tokens))
    return places.float().reshape(segments, tokens, 2)


def merged_one_by_one(tokens: torch.Tensor, goal: int) -> torch.Tensor:
    """The rule of `merge_tokens` for one segment, pair by pair, in float64."""
    state = [token.double() for token in tokens]
    while len(state) > goal:
        even, odd = state[::2], state[1::2]
        pairs = []
        for i, a in enumerate(even):
            cosines = [torch.cosine_similarity(a, b, dim=0).item() for b in odd]
            best = max(range(len(odd)), key=cosines.__getitem__)
            pairs.append((-cosines[best], i, best))
        groups = [[b] for b in odd]
        gone = set()
        for _, i, j in sorted(pairs)[: min(len(state) // 2, len(state) - goal)]:
            groups[j].append(even[i])
            gone.add(i)
        left = [a for i, a in enumerate(even) if i not in gone]
        state = left + [torch.stack(group).mean(dim=0) for group in groups]
    return torch.stack(state)


@pytest.mark.parametrize("name", ["head", "tail", "tome"])
def test_golden_strategies(name):
    strategy = Strategy(name)
    # The published run kept every want: 55 of the 6 × 16 tokens.
    kept = strategy.allocate(SCORES, tokens=16, budget=96)
    assert torch.equal(kept.counts, GOLDEN[f"strategy.{name}.alloc"].long())
    packed = strategy.select(FEATURES, kept)
    torch.testing.assert_close(packed, GOLDEN[f"strategy.{name}.packed"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("pruning", ["topk", "lastk"])
@pytest.mark.parametrize("prune_tokens", [0, 4])
def test_golden_pruning(pruning, prune_tokens):
    strategy = Strategy(pruning=pruning, prune_tokens=prune_tokens)
    kept = strategy.allocate(SCORES, tokens=16, budget=6)
    assert torch.equal(kept.counts, GOLDEN[f"prune.{pruning}.{prune_tokens}.alloc"].long())
    packed = strategy.select(FEATURES, kept)
    assert torch.equal(packed, GOLDEN[f"prune.{pruning}.{prune_tokens}.packed"])


@pytest.mark.parametrize("name", ["head", "tail", "random", "tome"])
def test_budgeted_strategies_share_by_relevance(name):
    numbers = {"tokens": 16, "budget": 40, "min_tokens": 2}
    kept = Strategy(name).allocate(SCORES, **numbers)
    assert torch.equal(kept.counts, allocate(SCORES, **numbers))


@given(st.integers(1, 50), st.integers(1, 20), st.integers(0, 1200))
def test_uniform_spends_the_budget_as_far_as_there_are_tokens(segments, tokens, slack):
    budget = segments + slack
    kept = Strategy("uniform").allocate([0.5] * segments, tokens=tokens, budget=budget).counts
    assert kept.dtype == torch.int64 and kept.shape == (segments,)
    assert kept.sum() == min(budget, segments * tokens)
    assert kept.max() - kept.min() <= 1 and (kept.diff() <= 0).all()


def test_shuffled_deals_the_shares_of_relevance_to_any_segments():
    scores, rule = torch.linspace(0, 1, 40), {"tokens": 16, "budget": 300, "min_tokens": 1}
    shares = allocate(scores, **rule)
    dealt = [Strategy("shuffled", seed=seed).allocate(scores, **rule).counts for seed in (0, 0, 1)]
    for kept in dealt:
        assert kept.sort().values.equal(shares.sort().values) and not kept.equal(shares)
    assert dealt[0].equal(dealt[1]) and not dealt[0].equal(dealt[2])
    assert Strategy("shuffled").allocate(scores, **rule).counts.equal(dealt[0])
    packed = Strategy("shuffled").select(numbered(3, 4), Allocation.of([2, 0, 3]))
    assert packed.tolist() == [[0, 0], [0, 1], [2, 0], [2, 1], [2, 2]]


def test_shuffled_deals_in_every_way_alike():
    scores, rule = [0.0, 0.0, 0.0, 1.0], {"tokens": 8, "budget": 16, "min_tokens": 1}
    whole = [Strategy("shuffled", seed=seed).allocate(scores, **rule) for seed in range(400)]
    times = torch.tensor([allocation.kept for allocation in whole]).eq(8).sum(0)
    assert times.sum() == 400 and (times - 100).abs().max() < 40  # 4.6 standard deviations


def test_none_keeps_all_whatever_the_budget():
    strategy = strategy_of(AskOptions(strategy="none"))
    kept = strategy.allocate(SCORES, tokens=16, budget=1)
    assert kept.kept == (16,) * 6
    assert torch.equal(strategy.select(FEATURES, kept), FEATURES.flatten(0, 1))


def test_pruning_an_odd_number_keeps_the_larger_part_whole():
    scores = [0.2, 0.9, 0.2, 0.1, 0.5]
    rule = {"tokens": 8, "budget": 1}
    assert Strategy(pruning="topk").allocate(scores, **rule).counts.tolist() == [8, 8, 0, 0, 8]
    assert Strategy(pruning="lastk").allocate(scores, **rule).counts.tolist() == [8, 0, 8, 8, 0]
    assert Strategy(pruning="topk").allocate([0.5], **rule).kept == (8,)


def test_pruning_ranks_the_earlier_of_equals_higher():
    scores, rule = [0.1, 0.9] + [0.5] * 98, {"tokens": 1, "budget": 1}
    assert (
        Strategy(pruning="topk").allocate(scores, **rule).counts.tolist()
        == [0] + [1] * 50 + [0] * 49
    )
    assert (
        Strategy(pruning="lastk").allocate(scores, **rule).counts.tolist()
        == [1] + [0] * 50 + [1] * 49
    )


@pytest.mark.parametrize("pruning", PRUNINGS)
@pytest.mark.parametrize(("ratio", "whole"), [(0.0, 10), (0.25, 8), (0.5, 5), (0.99, 1), (1.0, 0)])
def test_pruning_ratio(pruning, ratio, whole):
    strategy = Strategy(pruning=pruning, prune_ratio=ratio, prune_tokens=3)
    kept = strategy.allocate(torch.linspace(0, 1, 10), tokens=8, budget=1)
    assert sorted(kept.kept) == [3] * (10 - whole) + [8] * whole


def test_pruned_segments_keep_no_more_than_there_are():
    kept = Strategy(pruning="topk", prune_tokens=99).allocate(SCORES, tokens=16, budget=1)
    assert kept.kept == (16,) * 6


def test_pruned_segments_keep_what_the_name_says():
    strategy = Strategy("tail", pruning="topk", prune_tokens=2)
    packed = strategy.select(numbered(2, 4), strategy.allocate([0.9, 0.1], tokens=4, budget=1))
    assert packed.tolist() == [[0, 0], [0, 1], [0, 2], [0, 3], [1, 2], [1, 3]]


@given(st.lists(st.integers(0, 7), min_size=1, max_size=12), st.integers(0, 5))
def test_packing_is_in_order_and_counts_are_kept(counts, seed):
    memory = numbered(len(counts), 7)
    for name in ("head", "tail", "random"):
        packed = Strategy(name, seed=seed).select(memory, Allocation.of(counts))
        assert packed.shape == (sum(counts), 2)
        segments, places = packed[:, 0].long(), packed[:, 1].long()
        assert torch.bincount(segments, minlength=len(counts)).tolist() == counts
        assert (torch.diff(segments * 7 + places) > 0).all()
        if name == "head":
            assert all((places[segments == i] < k).all() for i, k in enumerate(counts))
        elif name == "tail":
            assert all((places[segments == i] >= 7 - k).all() for i, k in enumerate(counts))


def test_random_is_reproducible_and_random():
    memory, counts = numbered(8, 32), Allocation.of([9] * 8)
    first = Strategy("random").select(memory, counts)
    torch.rand(3)
    assert torch.equal(first, Strategy("random").select(memory, counts))
    assert torch.equal(first, Strategy("random", seed=0).select(memory, counts))
    assert not torch.equal(first, Strategy("random", seed=1).select(memory, counts))
    per_segment = first[:, 1].unflatten(0, (8, 9))
    assert len({tuple(places.tolist()) for places in per_segment}) == 8


def test_random_reaches_every_place_about_equally():
    packed = Strategy("random").select(numbered(4000, 8), Allocation.of([2] * 4000))
    found = torch.bincount(packed[:, 1].long(), minlength=8)
    assert (found - 1000).abs().max() < 150  # 1000 expected, standard deviation 27


def test_random_pruning_is_reproducible_and_ignores_relevance():
    rule = {"tokens": 4, "budget": 1}
    scores = torch.linspace(0, 1, 40)
    first = Strategy(pruning="random", seed=3).allocate(scores, **rule).kept
    assert first == Strategy(pruning="random", seed=3).allocate(scores.flip(0), **rule).kept
    assert first != Strategy(pruning="random", seed=4).allocate(scores, **rule).kept


@pytest.mark.parametrize("length", [1, 2, 5, 7, 16, 33])
def test_merging_equals_the_rule_one_segment_at_a_time(length):
    generator = torch.Generator().manual_seed(length)
    memory = torch.randn(length + 1, length, 6, generator=generator)
    counts = torch.randperm(length + 1, generator=generator)  # each count 0…length once
    packed = merge_tokens(memory, counts).split(counts.tolist())
    for tokens, goal, rows in zip(memory, counts.tolist(), packed, strict=True):
        if goal:
            expected = merged_one_by_one(tokens, goal).float()
            torch.testing.assert_close(rows, expected, rtol=0, atol=1e-5)


def test_merging_keeps_dtype_and_rounds_once():
    memory = FEATURES.bfloat16()
    counts = GOLDEN["strategy.tome.alloc"].long()
    packed = merge_tokens(memory, counts)
    assert packed.dtype == torch.bfloat16
    assert torch.equal(packed, merge_tokens(memory.float(), counts).bfloat16())


def test_merging_zeros_gives_zeros():
    packed = Strategy("tome").select(torch.zeros(2, 8, 4), Allocation.of([3, 1]))
    assert torch.equal(packed, torch.zeros(4, 4))


@pytest.mark.parametrize("name", STRATEGIES)
def test_needs_every_token_says_what_select_reads(name):
    """Where it is False, the tokens past the first k of a segment may be anything."""
    strategy = Strategy(name)
    kept = Allocation.of([3, 5, 1, 8, 2, 4])
    spoilt = FEATURES.masked_fill(torch.arange(16)[:, None] >= kept.counts[:, None, None], 9.0)
    same = torch.equal(strategy.select(spoilt, kept), strategy.select(FEATURES, kept))
    assert same is not strategy.needs_every_token


@pytest.mark.parametrize("name", ["head", "tail", "random", "tome"])
def test_nothing_kept_is_an_empty_pack(name):
    packed = Strategy(name).select(FEATURES, Allocation.of([0] * 6))
    assert packed.shape == (0, 8) and packed.dtype == FEATURES.dtype


def test_options_become_a_strategy():
    assert strategy_of(AskOptions()) == Strategy()
    given_options = {"pruning": "lastk", "prune_ratio": 0.25, "prune_tokens": 2, "seed": 5}
    options = AskOptions(strategy="tail", **given_options)
    assert strategy_of(options) == Strategy("tail", **given_options)
    assert strategy_of(AskOptions(strategy="tome", dynamic_compress=False)).name == "none"


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "middle"},
        {"pruning": "best"},
        {"prune_ratio": 1.5},
        {"prune_tokens": -1},
        {"seed": -1},
        {"name": "uniform", "pruning": "topk"},
        {"name": "shuffled", "pruning": "topk"},
        {"pruning": "topk", "prune_ratio": 1.0},
    ],
)
def test_strategies_out_of_range(wrong):
    with pytest.raises(OptionError):
        Strategy(**wrong)


@pytest.mark.parametrize("name", ["head", "uniform", "shuffled", "tome"])
def test_budget_under_the_segments(name):
    with pytest.raises(OptionError, match="the least budget is 6"):
        Strategy(name).allocate(SCORES, tokens=16, budget=5)


@pytest.mark.parametrize("strategy", [*map(Strategy, STRATEGIES), Strategy(pruning="topk")])
def test_relevance_that_is_no_number(strategy):
    with pytest.raises(ModelError):
        strategy.allocate([0.5, float("nan")], tokens=16, budget=100)


@pytest.mark.parametrize("counts", [[1] * 5, [17, 0, 0, 0, 0, 0], [-1, 0, 0, 0, 0, 0], [1] * 7])
@pytest.mark.parametrize("name", ["head", "tome"])
def test_allocations_that_do_not_fit(name, counts):
    with pytest.raises(OptionError, match="allocations"):
        Strategy(name).select(FEATURES, Allocation.of(counts))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", STRATEGIES)
def test_cuda_selects_the_same(name):
    strategy = Strategy(name)
    kept = strategy.allocate(SCORES.cuda(), tokens=16, budget=40)
    packed = strategy.select(FEATURES.cuda(), kept)
    assert kept.counts.is_cuda and packed.is_cuda
    expected = strategy.select(FEATURES, Allocation.of(kept.kept))
    torch.testing.assert_close(packed.cpu(), expected, rtol=0, atol=1e-5)
