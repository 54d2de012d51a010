"""Relevance and allocation in one launch: the two kernels' results, and the counter put back.

The interpreter runs the programs one after the other, in order: which of them is the last can't be
chosen there, and races can't be seen. A GPU runs the same tests in the order that it likes.
"""

from __future__ import annotations

from itertools import product

import pytest
import torch

from tempo_kernels.allocate import allocate
from tempo_kernels.relevance import relevance
from tempo_kernels.relevance_allocate import relevance_allocate, relevance_allocate_ref

EPS = 1e-6
KINDS = ["even", "tied", "constant", "NaN"]
# Interpreted, a thousand programs take seconds.
CASES = [
    *product([1, 2, 63, 131], KINDS, [torch.float32, torch.bfloat16]),
    (128, "tied", torch.float32),
    (1024, "even", torch.bfloat16),
    (1025, "tied", torch.float32),  # the first of the configuration up to 4096
    *(
        pytest.param(4096, kind, torch.float32, marks=pytest.mark.gpu)
        for kind in (KINDS if torch.cuda.is_available() else [])
    ),
]


def scoring(device, dtype, kind, segments, width=16):
    """hidden, index, weight, direction of segments whose relevance is of a kind."""
    make = torch.Generator().manual_seed(segments)
    # Of a row for each segment; rows that several share tie.
    rows = {"tied": min(segments, 5), "constant": 1}.get(kind, segments)
    hidden = 3 * torch.randn(rows, width, generator=make)
    index = torch.randint(rows, (segments,), generator=make)
    if kind == "NaN":
        hidden[index[segments // 2]] = float("nan")
    weight = 1 + 0.2 * torch.randn(width, generator=make)
    direction = torch.randn(width, generator=make) / width**0.5
    return tuple(
        tensor.to(device) for tensor in (hidden.to(dtype), index, weight.to(dtype), direction)
    )


def counter(device):
    return torch.zeros(1, dtype=torch.int32, device=device)


def same_bits(actual, expected):
    """Equality in which NaN is NaN."""
    return torch.equal(actual.view(torch.int32), expected.view(torch.int32))


def assert_allocates_as_alone(found, rule):
    """Allocations and offsets are the other kernel's of the same relevance."""
    scores, *shares = found
    for actual, expected in zip(shares, allocate(scores, **rule), strict=True):
        assert actual.dtype == torch.int64 and torch.equal(actual, expected), rule


@pytest.mark.parametrize(("segments", "kind", "dtype"), CASES)
def test_is_the_two_kernels_bit_for_bit(device, segments, kind, dtype):
    arguments, done = scoring(device, dtype, kind, segments), counter(device)
    scores = relevance(*arguments, EPS)
    budgets = [segments, 2 * segments + segments // 2, 28 * segments + 3, 10**15]
    few = segments > 1000 or (segments > 100 and dtype == torch.bfloat16)
    for budget in budgets[1:2] if few else budgets:
        rule = {"tokens": 128, "budget": budget, "min_tokens": 4}
        found = relevance_allocate(*arguments, EPS, done, **rule)
        assert done.item() == 0
        assert same_bits(found[0], scores)
        assert_allocates_as_alone(found, rule)
        total = int(found[2][-1])
        assert (total == -1) == (kind == "NaN") and total <= budget


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("segments", "width"), [(1, 1), (63, 131), (131, 2048)])
def test_its_reference_is_the_two_references(device, as_good, dtype, segments, width):
    arguments, done = scoring(device, dtype, "even", segments, width), counter(device)
    rule = {"tokens": 16, "budget": 5 * segments, "min_tokens": 3}
    scores, *shares = relevance_allocate(*arguments, EPS, done, **rule)
    expected, *expected_shares = relevance_allocate_ref(*arguments, EPS, done, **rule)
    hidden, index, weight, direction = (tensor.double() for tensor in arguments)
    x = hidden[index.long()]
    x = x / (x.square().mean(-1, keepdim=True) + EPS).sqrt() * weight
    as_good(scores, expected, (x @ direction).sigmoid(), "relevance")
    # A score that rounds apart may tip a token: what follows from one's own scores is compared.
    assert_allocates_as_alone((scores, *shares), rule)
    assert [x.dtype for x in expected_shares] == [x.dtype for x in shares]
    assert [x.shape for x in expected_shares] == [x.shape for x in shares]


def test_launches_after_each_other_share_a_counter(device):
    """Of other sizes too: each finds it as the one before leaves it."""
    done, rule = counter(device), {"tokens": 16, "budget": 700}
    found = []
    for segments in (63, 63, 131, 2, 63):
        arguments = scoring(device, torch.float32, "even", segments)
        found.append(relevance_allocate(*arguments, EPS, done, **rule))
        assert torch.equal(found[-1][0], relevance(*arguments, EPS))
        assert_allocates_as_alone(found[-1], rule)
    assert done.item() == 0
    for first, last in zip(found[0], found[-1], strict=True):
        assert torch.equal(first, last)


def test_an_index_out_of_range_makes_the_total_minus_one(device, check_indices):
    check_indices("never")
    hidden, index, weight, direction = scoring(device, torch.float32, "even", 5)
    index[3] = 2**40
    done = counter(device)
    scores, kept, offsets = relevance_allocate(
        hidden, index, weight, direction, EPS, done, tokens=16, budget=40
    )
    assert scores.isnan().tolist() == [False, False, False, True, False]
    assert kept.tolist() == [0] * 5 and offsets.tolist() == [0] * 5 + [-1] and done.item() == 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here")
@pytest.mark.parametrize("segments", [128, 4096])
def test_a_recorded_launch_is_replayed(interpreted, segments):
    if interpreted:
        pytest.skip("TRITON_INTERPRET=1: the kernels are interpreted in this process")
    device = torch.device("cuda", torch.cuda.current_device())
    arguments = scoring(device, torch.bfloat16, "even", segments, 2048)
    rule, done = {"tokens": 128, "budget": 9 * segments}, counter(device)
    expected = relevance_allocate(*arguments, EPS, done, **rule)
    assert torch.equal(expected[0], relevance(*arguments, EPS))
    assert_allocates_as_alone(expected, rule)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = relevance_allocate(*arguments, EPS, done, **rule)
    for _ in range(200):  # in as many orders of the programs
        for tensor in found:
            tensor.fill_(-7)
        graph.replay()
        assert all(map(torch.equal, found, expected)) and done.item() == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden": lambda x: x.double()}, "hidden is torch.float64"),
        ({"index": lambda x: x + 100}, "index has 1[0-9]+; 0 to 2 is needed"),
        ({"index": lambda x: x[:0]}, "relevance has 0 segments"),
        ({"index": lambda x: x.new_zeros(4097)}, "relevance has 4097 segments"),
        ({"weight": lambda x: x[1:]}, "weight has shape"),
        ({"direction": lambda x: x.bfloat16()}, "direction is torch.bfloat16"),
        ({"done": lambda x: x.long()}, "done is torch.int64"),
        ({"done": lambda x: x.new_zeros(2)}, "done has shape"),
        ({"done": lambda x: x.to("meta")}, "done is on meta"),
        ({"done": lambda x: x + 2}, "done has 2; 0 to 0 is needed"),
        ({"budget": lambda x: 2}, "a budget of 2 is too small for 3 segments: the least is 3"),
        ({"tokens": lambda x: 0}, "tokens is 0"),
        ({"min_tokens": lambda x: 0}, "min_tokens is 0"),
    ],
)
def test_bad_input_is_a_value_error(device, check_indices, change, message):
    check_indices("always")
    names = ("hidden", "index", "weight", "direction")
    arguments = dict(zip(names, scoring(device, torch.float32, "even", 3), strict=True))
    arguments |= {"done": counter(device), "tokens": 16, "budget": 20, "min_tokens": 4}
    for name, wrong in change.items():
        arguments[name] = wrong(arguments[name])
    with pytest.raises(ValueError, match=message):
        relevance_allocate(**arguments, eps=EPS)
