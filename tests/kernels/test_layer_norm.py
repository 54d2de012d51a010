"""LayerNorm and its fused residual add against PyTorch and float64."""

from __future__ import annotations

import pytest
import torch

from tempo_kernels.layer_norm import add_layer_norm, add_layer_norm_ref, layer_norm, layer_norm_ref

from .tolerances import assert_rounds_alike

EPS = 1e-6
DTYPES = [torch.float32, torch.bfloat16]
SHAPES = [(1, 1), (1, 1024), (3, 4096), (63, 131), (131, 63), (2, 5, 128)]


def make(shape, dtype, device):
    """x, residual, weight and bias; the rows of x have a mean as large as their spread."""
    torch.manual_seed(0)
    x = torch.randn(shape) + torch.randn(shape[0]).view(-1, *[1] * (len(shape) - 1))
    weight, bias = 1 + 0.3 * torch.randn(shape[-1]), 0.3 * torch.randn(shape[-1])
    return (t.to(device, dtype) for t in (x, torch.randn(shape), weight, bias))


def exact(x, weight, bias):
    return torch.nn.functional.layer_norm(
        x.double(), weight.shape, weight.double(), bias.double(), EPS
    )


def assert_many_round_alike(actual, reference):
    """Of a few values, one is a large share."""
    if actual.numel() > 1000:
        assert_rounds_alike(actual, reference)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_layer_norm_is_as_good_as_pytorch(device, as_good, shape, dtype):
    x, _, weight, bias = make(shape, dtype, device)
    out = torch.full_like(x, float("nan"))
    assert layer_norm(x, weight, bias, EPS, out=out) is out
    reference = layer_norm_ref(x, weight, bias, EPS)
    as_good(out, reference, exact(x, weight, bias), "layer_norm")
    assert_many_round_alike(out, reference)
    assert torch.equal(layer_norm(x, weight, bias, EPS), out)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_add_layer_norm_is_as_good_as_pytorch(device, as_good, shape, dtype):
    x, residual, weight, bias = make(shape, dtype, device)
    out = (torch.full_like(x, float("nan")), torch.full_like(x, float("nan")))
    total, normed = add_layer_norm(x, residual, weight, bias, EPS, out=out)
    ref_total, ref_normed = add_layer_norm_ref(x, residual, weight, bias, EPS)
    assert torch.equal(total, ref_total)  # one float32 sum, rounded once
    as_good(normed, ref_normed, exact(ref_total, weight, bias), "layer_norm")
    assert_many_round_alike(normed, ref_normed)


@pytest.mark.parametrize("offset", [1e3, 1e4])
def test_a_large_mean_leaves_the_variance_right(device, as_good, offset):
    torch.manual_seed(1)
    x = (offset + torch.randn(7, 1024)).to(device)
    weight, bias = torch.ones(1024, device=device), torch.zeros(1024, device=device)
    result = layer_norm(x, weight, bias, EPS)
    as_good(result, layer_norm_ref(x, weight, bias, EPS), exact(x, weight, bias), "layer_norm")


def test_the_sum_may_replace_the_residual(device):
    x, residual, weight, bias = make((63, 131), torch.bfloat16, device)
    expected = add_layer_norm(x, residual, weight, bias, EPS)
    total, normed = add_layer_norm(x, residual, weight, bias, EPS, out=(residual, x))
    assert total is residual and normed is x
    assert torch.equal(total, expected[0]) and torch.equal(normed, expected[1])


def test_no_rows(device):
    x, one = torch.empty(0, 64, device=device), torch.ones(64, device=device)
    assert layer_norm(x, one, one, EPS).shape == (0, 64)
    assert [t.shape for t in add_layer_norm(x, x, one, one, EPS)] == [(0, 64)] * 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": lambda x: x.half()}, "x is torch.float16"),
        ({"x": lambda x: x.t()}, "x has strides"),
        ({"x": lambda x: x[0, 0]}, "x has no last dimension"),
        ({"x": lambda x: x[:, :0].contiguous()}, "x has rows of 0"),
        ({"x": lambda x: x.new_empty(1, 16385)}, "x has rows of 16385"),
        ({"weight": lambda w: w.bfloat16()}, "weight is torch.bfloat16"),
        ({"bias": lambda b: b[:-1]}, "bias has shape"),
        ({"bias": lambda b: b.to("meta")}, "bias is on meta"),
        ({"residual": lambda r: r[:-1]}, "residual has shape"),
        ({"out": lambda o: (o[0], o[1].bfloat16())}, r"out\[1\] is torch.bfloat16"),
        ({"out": lambda o: (o[0].t(), o[1])}, r"out\[0\] has strides"),
        ({"out": lambda o: (o[0], o[0])}, "out holds one tensor twice"),
    ],
)
def test_bad_input_is_a_value_error(device, change, message):
    x, residual, weight, bias = make((8, 8), torch.float32, device)
    given = {"x": x, "residual": residual, "weight": weight, "bias": bias}
    given["out"] = (torch.empty_like(x), torch.empty_like(x))
    given = {name: change.get(name, lambda t: t)(value) for name, value in given.items()}
    out = given.pop("out")
    with pytest.raises(ValueError, match=message):
        add_layer_norm(*given.values(), EPS, out=out)
