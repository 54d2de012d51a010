"""GELU's tanh form against PyTorch and float64."""

from __future__ import annotations

import pytest
import torch

from tempo_kernels.gelu_tanh import gelu_tanh, gelu_tanh_ref

from .tolerances import assert_rounds_alike, limit

# exp(−x) is infinite where the result is 0, which NumPy tells of under the interpreter.
pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")

DTYPES = [torch.float32, torch.bfloat16]
# A block holds 4096: less, exactly one, and several with a part left over.
SHAPES = [(1,), (63, 131), (131, 63), (4, 1024), (2, 3, 1029)]


def make(shape, dtype, device):
    torch.manual_seed(0)
    return (3 * torch.randn(shape)).to(device, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_gelu_tanh_is_as_good_as_pytorch(device, as_good, shape, dtype):
    x = make(shape, dtype, device)
    out = torch.full_like(x, float("nan"))
    assert gelu_tanh(x, out=out) is out
    reference = gelu_tanh_ref(x)
    as_good(out, reference, gelu_tanh_ref(x.double()), "gelu_tanh")
    # Where PyTorch's 1 + tanh cancels, the two round apart; there the values are tiny.
    cancels = x <= limit("gelu_tanh: cancels below")
    assert_rounds_alike(out.where(~cancels, reference), reference)
    assert torch.equal(gelu_tanh(x), out)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_size_of_value(device, dtype):
    x = torch.cat((-torch.logspace(30, -30, 61), torch.zeros(1), torch.logspace(-30, 30, 61)))
    x = x.to(device, dtype)
    expected = gelu_tanh_ref(x.double())
    result = gelu_tanh(x).double()
    allowed = limit("gelu_tanh: relative") * torch.finfo(dtype).eps * expected.abs()
    allowed += limit("gelu_tanh: tiny values")
    assert ((result - expected).abs() <= allowed).all()


def test_in_place(device):
    x = make((63, 131), torch.bfloat16, device)
    expected = gelu_tanh(x)
    assert gelu_tanh(x, out=x) is x
    assert torch.equal(x, expected)


def test_no_values(device):
    assert gelu_tanh(torch.empty(0, 64, device=device)).shape == (0, 64)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x.half(), "x is torch.float16"),
        (lambda x: x.t(), "x has strides"),
        (lambda x: [1.0], "x is a list"),
    ],
)
def test_bad_input_is_a_value_error(device, change, message):
    with pytest.raises(ValueError, match=message):
        gelu_tanh(change(make((8, 8), torch.float32, device)))


@pytest.mark.parametrize(
    ("out", "message"),
    [
        (torch.empty(8, 4), r"out has shape \[8, 4\]"),
        (torch.empty(8, 8).bfloat16(), "out is torch.bfloat16"),
        (torch.empty(8, 16)[:, ::2], "out has strides"),
        (torch.empty(8, 8, device="meta"), "out is on meta"),
    ],
)
def test_bad_output_is_a_value_error(device, out, message):
    if out.device.type != "meta" and out.is_contiguous():
        out = out.to(device)
    with pytest.raises(ValueError, match=message):
        gelu_tanh(make((8, 8), torch.float32, device), out=out)
