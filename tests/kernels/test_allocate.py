"""Adaptive token allocation on the device: the published numbers, its reference, the CPU's code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from tempo_fast.compression.allocation import allocate as allocate_on_host
from tempo_kernels.allocate import MAX_TOKENS, allocate, allocate_ref

GOLDEN = Path(__file__).parents[1] / "golden"
BOTH = pytest.mark.parametrize("run", [allocate, allocate_ref])
# Sixteenths from 0 to 1: n, its sum and most products are exact, so no order of rounding matters.
sixteenths = st.lists(st.integers(0, 16), max_size=40).flatmap(
    lambda some: st.permutations([0, 16, *some])
)
quick = settings(
    max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)


def golden_allocations():
    with safe_open(GOLDEN / "allocation.safetensors", "pt") as file:
        for i, case in enumerate(json.loads(file.metadata()["cases"])):
            numbers = {name: case[name] for name in ("tokens", "budget", "min_tokens")}
            yield i, numbers, file.get_tensor(f"scores.{i}"), file.get_tensor(f"alloc.{i}").long()


def checked(run, scores, device, **numbers):
    """Allocations as run gives them, on the CPU, after checking the form of its results."""
    kept, offsets = run(scores.to(device), **numbers)
    assert kept.dtype == offsets.dtype == torch.int64
    assert kept.device == offsets.device == device
    assert kept.shape == scores.shape and offsets[0] == 0
    assert torch.equal(offsets[1:], kept.cumsum(0))
    return kept.cpu()


def by_score(scores, kept):
    """The allocations of each score: what a choice among equals leaves as it was."""
    return sorted(zip(scores.tolist(), kept.tolist(), strict=True))


def favours_earlier(scores, kept):
    """Whether of equal scores the earlier segments have no fewer tokens."""
    order = scores.argsort(stable=True)
    same = scores[order].diff() == 0
    return bool((kept[order].diff()[same] <= 0).all())


@BOTH
def test_golden_allocations(device, run):
    exact = refused = 0
    tied = []
    for i, numbers, scores, expected in golden_allocations():
        if numbers["budget"] < len(scores):
            with pytest.raises(ValueError, match=f"the least is {len(scores)}"):
                run(scores.to(device), **numbers)
            refused += 1
            continue
        kept = checked(run, scores, device, **numbers)
        assert favours_earlier(scores, kept), f"case {i}"
        if torch.equal(kept, expected):
            exact += 1
            continue
        # The published sort is not stable: beyond 16 segments it has its own order of equals.
        assert len(scores) > 16 and not favours_earlier(scores, expected), f"case {i}: {numbers}"
        assert by_score(scores, kept) == by_score(scores, expected), f"case {i}: {numbers}"
        tied.append(i)
    assert (exact, len(tied), refused) == (205, 7, 28)


@BOTH
def test_golden_end_to_end_allocations(device, run):
    count = 0
    for path in sorted((GOLDEN / "cases").glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            if "allocations" not in set(file.keys()):  # a case without dynamic compression
                continue
            budget = json.loads(file.metadata()["case"]).get("budget", 8192)
            tokens = file.get_slice("memory_tokens").get_shape()[1]
            scores = file.get_tensor("relevance").float()
            kept = checked(run, scores, device, tokens=tokens, budget=budget)
            assert torch.equal(kept, file.get_tensor("allocations").long()), path.name
        count += 1
    assert count == 10


def random_scores(kind, segments):
    make = torch.Generator().manual_seed(segments)
    scores = torch.rand(segments, generator=make)
    if kind == "spiky":
        return torch.where(scores > 0.95, 0.9, 1e-3 * scores)
    return (scores * 8).round() / 8 if kind == "tied" else scores


@pytest.mark.parametrize("kind", ["even", "spiky", "tied"])
@pytest.mark.parametrize("segments", [1, 2, 16, 63, 128, 131, 1024, 1025, 4096])
def test_equals_its_reference(device, kind, segments):
    scores = random_scores(kind, segments)
    for tokens, budget, least in [
        (128, segments, 4),
        (128, 2 * segments + segments // 2, 4),
        (128, 28 * segments + 3, 4),
        (16, 15 * segments, 4),
        (128, 10**15, 4),
        (1, 5 * segments, 4),
        (3, 100 * segments, 10**12),
        (MAX_TOKENS, MAX_TOKENS * segments - 1, 1),
    ]:
        numbers = {"tokens": tokens, "budget": budget, "min_tokens": least}
        kept = checked(allocate, scores, device, **numbers)
        reference = checked(allocate_ref, scores, device, **numbers)
        assert torch.equal(kept, reference), numbers
        assert kept.min() >= min(least, budget // segments, tokens) and kept.max() <= tokens
        # With sums of hundreds of millions a float32 product may floor a token too high.
        assert kept.sum() <= budget or tokens == MAX_TOKENS
        assert favours_earlier(scores, kept)


@quick
@given(
    scores=sixteenths,
    tokens=st.sampled_from([1, 3, 8, 16, 128]),
    least=st.integers(1, 12),
    slack=st.one_of(st.integers(0, 60), st.integers(0, 5000)),
)
def test_equals_the_code_on_the_host(device, scores, tokens, least, slack):
    scores = torch.tensor(scores) / 16
    numbers = {"tokens": tokens, "min_tokens": least, "budget": len(scores) + slack}
    kept = checked(allocate, scores, device, **numbers)
    on_host = allocate_on_host(scores, **numbers)
    assert by_score(scores, kept) == by_score(scores, on_host)
    assert len(scores) > 16 or torch.equal(kept, on_host)


@pytest.mark.parametrize("segments", [131, 1025])
def test_no_order_of_summation_matters(device, segments):
    scores = random_scores("even", segments)
    order = torch.randperm(segments, generator=torch.Generator().manual_seed(0))
    numbers = {"tokens": 128, "budget": 9 * segments}
    kept = checked(allocate, scores, device, **numbers)
    assert len(kept.unique()) > 4
    assert torch.equal(checked(allocate, scores[order], device, **numbers), kept[order])


@BOTH
def test_left_over_tokens_go_to_the_earlier_of_equals(device, run):
    scores = torch.tensor([0.0, 1.0, 1.0, 1.0])
    kept = checked(run, scores, device, tokens=16, budget=12, min_tokens=1)
    assert kept.tolist() == [1, 4, 4, 3]
    scores = torch.tensor([0.0] + [1.0] * 30)
    kept = checked(run, scores, device, tokens=16, budget=31 + 30 * 2 + 7, min_tokens=1)
    assert kept.tolist() == [1] + [4] * 7 + [3] * 23


@BOTH
def test_equal_relevance_shares_equally_and_leaves_the_rest(device, run):
    for scores, tokens, budget, each in [
        ([0.3] * 3, 16, 20, 6),
        ([0.3] * 3, 5, 20, 5),
        ([0.3, 0.3 + 5e-9], 16, 9, 4),
        ([0.0, 9e-9], 16, 9, 4),
        ([0.7], 16, 100, 16),
    ]:
        kept = checked(run, torch.tensor(scores), device, tokens=tokens, budget=budget)
        assert kept.tolist() == [each] * len(scores)
    kept = checked(run, torch.tensor([0.0, 1.1e-8]), device, tokens=16, budget=20)
    assert kept.tolist() == [4, 16]


@BOTH
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("segments", [1, 3, 131])
def test_relevance_that_is_no_number_makes_the_total_minus_one(device, run, bad, segments):
    for place in {0, segments // 2, segments - 1}:
        scores = torch.linspace(0, 1, segments)
        scores[place] = bad
        kept, offsets = run(scores.to(device), tokens=16, budget=8 * segments)
        assert kept.tolist() == [0] * segments
        assert offsets.tolist() == [0] * segments + [-1]


@BOTH
@pytest.mark.filterwarnings("ignore:overflow encountered")
def test_relevance_further_apart_than_float32(device, run):
    _, offsets = run(torch.tensor([-3e38, 3e38], device=device), tokens=16, budget=20)
    assert offsets.tolist() == [0, 0, -1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"relevance": torch.zeros(3).double()}, "relevance is torch.float64"),
        ({"relevance": torch.zeros(3, 1)}, "relevance has shape"),
        ({"relevance": torch.zeros(6)[::2]}, "relevance has strides"),
        ({"relevance": torch.zeros(0)}, "relevance has 0 segments"),
        ({"relevance": torch.zeros(4097)}, "relevance has 4097 segments"),
        ({"budget": 2}, "a budget of 2 is too small for 3 segments: the least is 3"),
        ({"tokens": 0}, "tokens is 0"),
        ({"tokens": MAX_TOKENS + 1}, "tokens is 262145"),
        ({"min_tokens": 0}, "min_tokens is 0"),
    ],
)
def test_bad_input_is_a_value_error(device, change, message):
    arguments = {"relevance": torch.zeros(3), "tokens": 16, "budget": 20} | change
    arguments["relevance"] = arguments["relevance"].to(device)
    if "strides" in message:
        arguments["relevance"] = torch.zeros(6, device=device)[::2]
    with pytest.raises(ValueError, match=message):
        allocate(**arguments)
