"""Adaptive token allocation: the published numbers, the rules restated, and bad input."""

from __future__ import annotations

import json
import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open

from tempo_fast.compression.allocation import allocate
from tempo_fast.errors import ModelError, OptionError

GOLDEN = Path(__file__).parent / "golden"

counts = st.fixed_dictionaries(
    {
        "tokens": st.sampled_from([1, 3, 8, 16, 128]),
        "min_tokens": st.integers(1, 12),
        "slack": st.one_of(st.integers(0, 60), st.integers(0, 5000)),
    }
)
floats = st.lists(st.floats(0, 1, width=32), min_size=1, max_size=40)
# Sixteenths from 0 to 1: n, its sum and most products are exact, so no order of rounding matters.
sixteenths = st.lists(st.integers(0, 16), max_size=30).flatmap(
    lambda some: st.permutations([0, 16, *some])
)


def golden_allocations():
    with safe_open(GOLDEN / "allocation.safetensors", "pt") as file:
        for i, case in enumerate(json.loads(file.metadata()["cases"])):
            yield i, case, file.get_tensor(f"scores.{i}"), file.get_tensor(f"alloc.{i}")


def arguments_for(scores, numbers):
    """The arguments of allocate(): a budget of one token a segment and some more."""
    budget = len(scores) + numbers["slack"]
    return {"tokens": numbers["tokens"], "min_tokens": numbers["min_tokens"], "budget": budget}


def restated(sixteenth: list[int], tokens: int, budget: int, min_tokens: int) -> list[int]:
    """The rules in whole numbers and float32 scalars; scores are sixteenths that span 0 to 1."""
    segments = len(sixteenth)
    least = min_tokens
    if segments * least > budget:
        least = max(1, budget // segments)
    kept = [least + math.floor(Fraction(n, 16) * (tokens - least)) for n in sixteenth]
    if sum(kept) > budget:
        extra = budget - segments * least
        total = np.float32(sum(sixteenth) / 16)
        weight = [np.float32(n / 16) / total for n in sixteenth]
        kept = [least + math.floor(w * np.float32(extra)) for w in weight]
        order = sorted(range(segments), key=lambda i: (-weight[i], i))
        for i in order[: budget - sum(kept)]:
            kept[i] += 1
    return [min(max(k, least), tokens) for k in kept]


def test_golden_allocations():
    checked = refused = 0
    for i, case, scores, expected in golden_allocations():
        numbers = {name: case[name] for name in ("tokens", "budget", "min_tokens")}
        if case["budget"] < case["segments"]:
            with pytest.raises(OptionError, match=f"the least budget is {case['segments']}"):
                allocate(scores, **numbers)
            refused += 1
            continue
        assert case["total"] <= case["budget"]
        kept = allocate(scores, **numbers)
        assert kept.dtype == torch.int64 and kept.shape == scores.shape
        assert torch.equal(kept, expected.long()), f"case {i}: {case}"
        checked += 1
    assert (checked, refused) == (212, 28)


def test_golden_end_to_end_allocations():
    checked = 0
    for path in sorted((GOLDEN / "cases").glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            if "allocations" not in set(file.keys()):  # a case without dynamic compression
                continue
            budget = json.loads(file.metadata()["case"]).get("budget", 8192)
            tokens = file.get_slice("memory_tokens").get_shape()[1]
            kept = allocate(file.get_tensor("relevance"), tokens=tokens, budget=budget)
            assert torch.equal(kept, file.get_tensor("allocations").long()), path.name
        checked += 1
    assert checked == 10


@given(sixteenths, counts)
def test_rules_restated(scores, numbers):
    arguments = arguments_for(scores, numbers)
    kept = allocate([n / 16 for n in scores], **arguments).tolist()
    expected = restated(scores, **arguments)
    # Which of equally relevant segments gets a left-over token is the sort's choice beyond 16.
    assert sorted(zip(scores, kept, strict=True)) == sorted(zip(scores, expected, strict=True))
    assert len(scores) > 16 or kept == expected


@given(floats, counts)
def test_bounds_and_budget(scores, numbers):
    arguments = arguments_for(scores, numbers)
    kept = allocate(scores, **arguments)
    least = min(arguments["min_tokens"], arguments["budget"] // len(scores), arguments["tokens"])
    assert kept.min() >= least and kept.max() <= arguments["tokens"]
    assert kept.sum() <= arguments["budget"]


@given(sixteenths, counts)
def test_more_relevance_never_means_fewer_tokens(scores, numbers):
    kept = allocate([n / 16 for n in scores], **arguments_for(scores, numbers))
    by_relevance = kept[torch.tensor(scores).argsort(stable=True)]
    order = torch.tensor(scores).sort().values
    rises = order[1:] > order[:-1]
    assert (by_relevance.diff()[rises] >= 0).all()


@given(sixteenths, counts, st.randoms(use_true_random=False))
def test_permuted_segments_keep_what_they_had(scores, numbers, random):
    """Only which of two equally relevant segments gets a left-over token may change."""
    shuffled = random.sample(scores, len(scores))
    arguments = arguments_for(scores, numbers)
    kept = allocate([n / 16 for n in scores], **arguments).tolist()
    other = allocate([n / 16 for n in shuffled], **arguments).tolist()
    assert sorted(zip(scores, kept, strict=True)) == sorted(zip(shuffled, other, strict=True))


def test_left_over_tokens_go_to_the_earlier_of_equals():
    kept = allocate([0.0, 1.0, 1.0, 1.0], tokens=16, budget=4 + 3 * 2 + 2, min_tokens=1)
    assert kept.tolist() == [1, 4, 4, 3]


def test_equal_relevance_shares_equally_and_leaves_the_rest():
    assert allocate([0.3] * 3, tokens=16, budget=20).tolist() == [6, 6, 6]
    assert allocate([0.3] * 3, tokens=5, budget=20).tolist() == [5, 5, 5]
    assert allocate([0.3, 0.3 + 5e-9], tokens=16, budget=9, min_tokens=1).tolist() == [4, 4]


def test_what_the_clamp_frees_is_not_given_out_again():
    kept = allocate([1.0, 0.0, 0.0, 0.1], tokens=8, budget=16, min_tokens=1)
    assert kept.tolist() == [8, 1, 1, 1]


def test_min_tokens_above_tokens_keeps_them_all():
    assert allocate([0.1, 0.9], tokens=3, budget=100, min_tokens=5).tolist() == [3, 3]


@pytest.mark.parametrize(
    "convert",
    [
        lambda x: x,
        np.array,
        lambda x: np.array(x, dtype=np.float32),
        lambda x: torch.tensor(x, dtype=torch.float64),
        lambda x: torch.tensor(x, requires_grad=True),
    ],
)
def test_kinds_of_relevance(convert):
    kept = allocate(convert([0.75, 0.25, 0.5]), tokens=16, budget=48)
    assert kept.tolist() == [16, 4, 10]
    assert kept.dtype == torch.int64 and not kept.requires_grad


def test_relevance_is_left_as_it_was():
    scores = torch.tensor([0.9, 0.1, 0.5])
    allocate(scores, tokens=16, budget=12)
    assert torch.equal(scores, torch.tensor([0.9, 0.1, 0.5]))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e300])
def test_relevance_that_is_no_number(bad):
    with pytest.raises(ModelError, match="segment 1"):
        allocate([0.5, bad, 0.2], tokens=16, budget=48)


def test_relevance_further_apart_than_float32():
    with pytest.raises(ModelError, match="further apart"):
        allocate([-3e38, 3e38], tokens=16, budget=48)


@pytest.mark.parametrize("bad", [[], 0.5, [[0.1, 0.2]], ["much", "little"], None, {}])
def test_relevance_of_the_wrong_shape(bad):
    with pytest.raises(OptionError, match="relevance must be"):
        allocate(bad, tokens=16, budget=48)


@pytest.mark.parametrize("name", ["tokens", "budget", "min_tokens"])
@pytest.mark.parametrize("bad", [0, -1, 2.5, True, "8", None])
def test_counts_that_are_none(name, bad):
    numbers = {"tokens": 16, "budget": 48, "min_tokens": 4, name: bad}
    with pytest.raises(OptionError, match=f"{name} must be a whole number of at least 1"):
        allocate([0.5, 0.6], **numbers)


def test_budget_error_is_also_a_value_error():
    with pytest.raises(ValueError, match=r"a budget of 2 .* the least budget is 3"):
        allocate([0.1, 0.2, 0.3], tokens=16, budget=2)
    assert allocate([0.1, 0.2, 0.3], tokens=16, budget=3).tolist() == [1, 1, 1]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_gives_the_same_numbers():
    def by_score(kept):  # the kernel has another order of equal scores
        return sorted(zip(scores.tolist(), kept.tolist(), strict=True))

    for _, case, scores, expected in golden_allocations():
        if case["budget"] >= case["segments"]:
            numbers = {name: case[name] for name in ("tokens", "budget", "min_tokens")}
            kept = allocate(scores.cuda(), **numbers)
            assert kept.is_cuda and by_score(kept) == by_score(expected)
