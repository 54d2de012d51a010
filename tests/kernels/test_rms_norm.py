"""RMSNorm and its fused residual add against PyTorch, the published module and float64."""

from __future__ import annotations

import pytest
import torch
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from tempo_kernels.rms_norm import add_rms_norm, add_rms_norm_ref, rms_norm, rms_norm_ref

from .tolerances import assert_rounds_alike

EPS = 1e-6
DTYPES = [torch.float32, torch.bfloat16]
SHAPES = [(1, 1), (1, 2048), (3, 2560), (63, 131), (131, 63), (2, 5, 128)]


def make(shape, dtype, device):
    """x, residual and weight, of sizes that differ by row."""
    torch.manual_seed(0)
    x = torch.randn(shape) * torch.logspace(-3, 2, shape[0]).view(-1, *[1] * (len(shape) - 1))
    weight = 1 + 0.3 * torch.randn(shape[-1])
    return (t.to(device, dtype) for t in (x, torch.randn(shape), weight))


def exact(x, weight):
    wide = x.double()
    return weight.double() * wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + EPS)


def assert_many_round_alike(actual, reference):
    """Of a few values, one is a large share."""
    if actual.numel() > 1000:
        assert_rounds_alike(actual, reference)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_rms_norm_is_as_good_as_pytorch(device, as_good, shape, dtype):
    x, _, weight = make(shape, dtype, device)
    out = torch.full_like(x, float("nan"))
    result = rms_norm(x, weight, EPS, out=out)
    assert result is out
    reference = rms_norm_ref(x, weight, EPS)
    as_good(out, reference, exact(x, weight), "rms_norm")
    assert_many_round_alike(out, reference)
    assert torch.equal(rms_norm(x, weight, EPS), out)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_add_rms_norm_is_as_good_as_pytorch(device, as_good, shape, dtype):
    x, residual, weight = make(shape, dtype, device)
    out = (torch.full_like(x, float("nan")), torch.full_like(x, float("nan")))
    total, normed = add_rms_norm(x, residual, weight, EPS, out=out)
    ref_total, ref_normed = add_rms_norm_ref(x, residual, weight, EPS)
    assert torch.equal(total, ref_total)  # one float32 sum, rounded once
    as_good(normed, ref_normed, exact(ref_total, weight), "rms_norm")
    assert_many_round_alike(normed, ref_normed)


def test_the_sum_may_replace_the_residual(device):
    x, residual, weight = make((63, 131), torch.bfloat16, device)
    expected = add_rms_norm(x, residual, weight, EPS)
    total, normed = add_rms_norm(x, residual, weight, EPS, out=(residual, x))
    assert total is residual and normed is x
    assert torch.equal(total, expected[0]) and torch.equal(normed, expected[1])


def test_no_rows(device):
    x = torch.empty(0, 64, device=device)
    weight = torch.ones(64, device=device)
    assert rms_norm(x, weight, EPS).shape == (0, 64)
    assert [t.shape for t in add_rms_norm(x, x, weight, EPS)] == [(0, 64)] * 2


@torch.no_grad()
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_reference_is_the_published_module(dtype):
    x, _, weight = make((5, 96), dtype, "cpu")
    module = Qwen3RMSNorm(96, EPS).to(dtype)
    module.weight.copy_(weight)
    assert torch.equal(rms_norm_ref(x, weight, EPS), module(x))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": lambda x: x.half()}, "x is torch.float16"),
        ({"x": lambda x: x.t()}, "x has strides"),
        ({"x": lambda x: x[0, 0]}, "x has no last dimension"),
        ({"x": lambda x: x[:, :0].contiguous()}, "x has rows of 0"),
        ({"x": lambda x: x.new_empty(1, 16385)}, "x has rows of 16385"),
        ({"weight": lambda w: w.bfloat16()}, "weight is torch.bfloat16"),
        ({"weight": lambda w: w[:-1]}, "weight has shape"),
        ({"weight": lambda w: w.to("meta")}, "weight is on meta"),
        ({"residual": lambda r: r[:-1]}, "residual has shape"),
        ({"residual": lambda r: r.double()}, "residual is torch.float64"),
        ({"out": lambda o: (o[0], o[1].bfloat16())}, r"out\[1\] is torch.bfloat16"),
        ({"out": lambda o: (o[0].t(), o[1])}, r"out\[0\] has strides"),
        ({"out": lambda o: (o[0], o[0])}, "out holds one tensor twice"),
    ],
)
def test_bad_input_is_a_value_error(device, change, message):
    x, residual, weight = make((8, 8), torch.float32, device)
    given = {"x": x, "residual": residual, "weight": weight}
    given["out"] = (torch.empty_like(x), torch.empty_like(x))
    given = {name: change.get(name, lambda t: t)(value) for name, value in given.items()}
    with pytest.raises(ValueError, match=message):
        add_rms_norm(given["x"], given["residual"], given["weight"], EPS, out=given["out"])
