"""SwiGLU against PyTorch and float64."""

from __future__ import annotations

import pytest
import torch

from tempo_kernels.swiglu import swiglu, swiglu_ref

from .tolerances import assert_rounds_alike, limit

# exp(−x) is infinite where the result is 0, which NumPy tells of under the interpreter.
pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")

DTYPES = [torch.float32, torch.bfloat16]
# A block holds 2048: less, exactly one, and a row of several with a part left over.
SHAPES = [(1, 2), (63, 2 * 131), (131, 2 * 63), (2, 2 * 2048), (1, 3, 2 * 4864)]


def make(shape, dtype, device):
    torch.manual_seed(0)
    return (4 * torch.randn(shape)).to(device, dtype)


def exact(gate_up):
    gate, up = gate_up.double().chunk(2, dim=-1)
    return gate * torch.sigmoid(gate) * up


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_swiglu_is_as_good_as_pytorch(device, as_good, shape, dtype):
    gate_up = make(shape, dtype, device)
    reference = swiglu_ref(gate_up)
    out = torch.full_like(reference, float("nan"))
    assert swiglu(gate_up, out=out) is out
    as_good(out, reference, exact(gate_up), "swiglu")
    assert_rounds_alike(out, reference)
    assert torch.equal(swiglu(gate_up), out)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_large_gates(device, dtype):
    gate = torch.tensor([-1e30, -200.0, -90.0, 0.0, 90.0, 200.0, 1e30])
    gate_up = torch.stack((gate, torch.ones(7))).flatten().to(device, dtype)
    torch.testing.assert_close(
        swiglu(gate_up),
        swiglu_ref(gate_up),
        rtol=limit("swiglu: large gates, relative"),
        atol=limit("swiglu: large gates, absolute"),
    )


def test_no_rows(device):
    assert swiglu(torch.empty(0, 128, device=device)).shape == (0, 64)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x.half(), "gate_up is torch.float16"),
        (lambda x: x.t(), "gate_up has strides"),
        (lambda x: x[:, :-1].contiguous(), "gate_up needs a last dimension of even size"),
        (lambda x: [1.0, 2.0], "gate_up needs a last dimension of even size"),
    ],
)
def test_bad_input_is_a_value_error(device, change, message):
    with pytest.raises(ValueError, match=message):
        swiglu(change(make((8, 8), torch.float32, device)))


@pytest.mark.parametrize(
    ("out", "message"),
    [
        (torch.empty(8, 8), r"out has shape \[8, 8\]; \[8, 4\] is needed"),
        (torch.empty(8, 4).bfloat16(), "out is torch.bfloat16"),
        (torch.empty(4, 8).t(), "out has strides"),
        (torch.empty(8, 4, device="meta"), "out is on meta"),
    ],
)
def test_bad_output_is_a_value_error(device, out, message):
    out = out if out.is_meta else out.to(device)
    with pytest.raises(ValueError, match=message):
        swiglu(make((8, 8), torch.float32, device), out=out)
