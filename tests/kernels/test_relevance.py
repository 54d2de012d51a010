"""The relevance kernel against its reference and float64."""

from __future__ import annotations

import pytest
import torch

from tempo_kernels.relevance import relevance, relevance_ref

from .tolerances import limit

EPS = 1e-6


def scoring(device, dtype, *, tokens=40, segments=3, width=64):
    """hidden, index, weight, direction; scores between about 0.1 and 0.9."""
    make = torch.Generator().manual_seed(tokens + segments + width)
    hidden = 3 * torch.randn(tokens, width, generator=make)
    index = torch.randint(tokens, (segments,), generator=make)
    weight = 1 + 0.2 * torch.randn(width, generator=make)
    direction = torch.randn(width, generator=make) / width**0.5
    return tuple(
        tensor.to(device) for tensor in (hidden.to(dtype), index, weight.to(dtype), direction)
    )


def exact_relevance(hidden, index, weight, direction, eps=EPS):
    x = hidden[index].double()
    y = x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight.double()
    return (y @ direction.double()).sigmoid()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("segments", "width"), [(1, 1), (1, 2048), (2, 63), (63, 64), (131, 131)])
def test_as_good_as_pytorch(device, as_good, dtype, segments, width):
    arguments = scoring(device, dtype, segments=segments, width=width)
    out = torch.full((segments,), float("nan"), device=device)
    scores = relevance(*arguments, EPS, out=out)
    assert scores is out
    reference = relevance_ref(*arguments, EPS)
    as_good(scores, reference, exact_relevance(*arguments), "relevance")
    # A norm, or a product with its weight, that isn't rounded to the dtype moves them all.
    assert (scores - reference).abs().median() <= limit("relevance: rounds alike")
    assert torch.equal(scores, relevance(*arguments, EPS))


def test_reads_the_rows_that_index_names(device):
    hidden, _, weight, direction = scoring(device, torch.float32, tokens=7)
    index = torch.tensor([6, 0, 6, 3], device=device)
    scores = relevance(hidden, index, weight, direction, EPS)
    each = [relevance(hidden[i : i + 1], index[1:2], weight, direction, EPS) for i in (6, 0, 6, 3)]
    assert torch.equal(scores, torch.cat(each))
    assert len(scores.unique()) == 3


@pytest.mark.filterwarnings("ignore:overflow encountered in exp")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_large_scores_saturate(device, dtype):
    hidden, index, weight, _ = scoring(device, dtype)
    for sign in (1, -1):
        toward = sign * 1e4 * hidden[index[0]].float()
        scores = relevance(hidden, index, weight, toward, EPS)
        assert scores[0] == (sign > 0) and scores.isfinite().all()


def test_index_out_of_range_is_nan_and_reads_nothing(device, check_indices):
    check_indices("never")
    hidden, _, weight, direction = scoring(device, torch.float32, tokens=8)
    index = torch.tensor([3, 8, -1, 2**40, 3], device=device)
    scores = relevance(hidden[:8], index, weight, direction, EPS)
    assert scores.isnan().tolist() == [False, True, True, True, False]


def test_no_segments(device):
    hidden, index, weight, direction = scoring(device, torch.float32)
    assert relevance(hidden, index[:0], weight, direction, EPS).shape == (0,)


@pytest.mark.parametrize(
    ("name", "wrong", "message"),
    [
        ("hidden", lambda x: x.double(), "hidden is torch.float64"),
        ("hidden", lambda x: x.t(), "hidden has strides"),
        ("hidden", lambda x: x[0], "hidden has shape"),
        ("hidden", lambda x: x[:, :0], "hidden has width 0"),
        ("hidden", lambda x: x.new_zeros(1, 20000), "hidden has width 20000"),
        ("index", lambda x: x.int(), "index is torch.int32"),
        ("index", lambda x: x - 100, "index has -[0-9]+; 0 to [0-9]+ is needed"),
        ("index", lambda x: x + 100, "index has 1[0-9]+; 0 to [0-9]+ is needed"),
        ("weight", lambda x: x.bfloat16(), "weight is torch.bfloat16"),
        ("weight", lambda x: x[1:], "weight has shape"),
        ("direction", lambda x: x.bfloat16(), "direction is torch.bfloat16"),
        ("direction", lambda x: x.to("meta"), "direction is on meta"),
        ("out", lambda x: x[:2], "out has shape"),
        ("out", lambda x: x.double(), "out is torch.float64"),
    ],
)
def test_bad_input_is_a_value_error(device, check_indices, name, wrong, message):
    check_indices("always")
    names = ("hidden", "index", "weight", "direction")
    arguments = dict(zip(names, scoring(device, torch.float32), strict=True))
    arguments["out"] = torch.empty(3, device=device)
    arguments[name] = wrong(arguments[name])
    with pytest.raises(ValueError, match=message):
        relevance(**arguments, eps=EPS)
