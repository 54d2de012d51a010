"""Matrix products by oneDNN on a CPU: float32 sums in another order, and only where they may be."""

from pathlib import Path

import pytest
import torch
from torch.nn.functional import gelu, linear

from tempo_fast import TempoFastPipeline, onednn
from tempo_fast.engine import ops

CHECKPOINT = Path(__file__).parent / "golden" / "checkpoint" / "tiny-tempo"
needs_it = pytest.mark.skipif(
    not onednn.AVAILABLE, reason="torch gives oneDNN no float32 products here (needs AVX-512)"
)


def tensors(rows, inputs, outputs):
    generator = torch.Generator().manual_seed(rows * inputs + outputs)

    def make(*shape):
        return torch.randn(*shape, generator=generator)

    return make(rows, inputs), make(outputs, inputs), make(outputs)


@needs_it
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(1, 1, 1), (63, 131, 17), (2160, 1536, 64), (1, 2560, 2560)])
def test_its_errors_are_those_of_float32(shape, bias):
    x, weight, b = tensors(*shape)
    b = b if bias else None
    exact = linear(x.double(), weight.double(), None if b is None else b.double())
    eps, size = torch.finfo(torch.float32).eps, x.abs().double() @ weight.abs().double().T
    error = (onednn.linear(x, weight, b) - exact).abs()
    assert (error <= eps * (shape[1] + 1) / 2 * (size + exact.abs())).all()
    # MKL sums blocks of the inputs, oneDNN all of them in one chain.
    own = (linear(x, weight, b) - exact).abs()
    assert error.max() <= max(4 * own.max(), eps * exact.abs().max())


@needs_it
@pytest.mark.parametrize("shape", [(1, 1, 1), (63, 131, 17), (540, 64, 128)])
def test_its_gelu_is_as_good_as_pytorchs(shape):
    x, weight, b = tensors(*shape)
    exact = gelu(linear(x.double(), weight.double(), b.double()), approximate="tanh")
    own = (gelu(linear(x, weight, b), approximate="tanh") - exact).abs()
    error = (onednn.linear(x, weight, b, gelu_tanh=True) - exact).abs()
    eps = torch.finfo(torch.float32).eps * exact.abs().max()
    assert error.max() <= max(2 * own.max(), eps)
    assert error.square().mean().sqrt() <= max(2 * own.square().mean().sqrt(), eps)


@needs_it
def test_leading_dimensions_and_strides():
    x, weight, b = tensors(4 * 5 * 2, 64, 32)
    x = x.view(4, 5, 2, 64)
    torch.testing.assert_close(onednn.linear(x, weight, b), linear(x, weight, b))
    part = x.transpose(0, 1)[..., 0, :]
    torch.testing.assert_close(onednn.linear(part, weight, None), linear(part, weight))
    columns = torch.randn(64, 32).t()
    torch.testing.assert_close(onednn.linear(x, columns, None), linear(x, columns))


@needs_it
def test_what_it_takes(monkeypatch):
    monkeypatch.setattr(onednn, "FEWEST", 64 * 64 * 64)
    x, weight, _ = tensors(64, 64, 64)
    assert onednn.takes(x, weight)
    assert not onednn.takes(x[:63], weight)
    assert not onednn.takes(x.double(), weight.double())
    assert not onednn.takes(x, weight.bfloat16())
    assert not onednn.takes(x.to("meta"), weight.to("meta"))
    learning = weight.clone().requires_grad_()
    assert not onednn.takes(x, learning)
    with torch.no_grad():
        assert onednn.takes(x, learning)
    with torch.autocast("cpu", torch.bfloat16):
        assert not onednn.takes(x, weight)
    torch._C._set_mkldnn_enabled(False)
    try:
        assert not onednn.takes(x, weight)
    finally:
        torch._C._set_mkldnn_enabled(True)
    monkeypatch.setattr(onednn, "AVAILABLE", False)
    assert not onednn.takes(x, weight)


@needs_it
def test_only_auto_uses_it(monkeypatch):
    calls = []
    monkeypatch.setattr(onednn, "FEWEST", 0)
    monkeypatch.setattr(onednn, "linear", lambda *args: calls.append(args) or linear(*args))
    x, weight, b = tensors(3, 4, 5)
    for mode, count in (("auto", 1), ("torch", 1)):
        before = ops.set_kernels(mode)
        try:
            assert torch.equal(ops.linear(x, weight, b), linear(x, weight, b))
        finally:
            ops.set_kernels(before)
        assert len(calls) == count


@needs_it
def test_answers_are_the_same_with_and_without(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 256, (20, 64, 96, 3), dtype=torch.uint8, generator=generator)
    pipe = TempoFastPipeline.from_pretrained(CHECKPOINT)
    ask = {"fps": 2.0, "visual_token_budget": 24}
    plain = pipe.compress(frames, "What moves?", **ask)
    calls = []
    product = onednn.linear
    monkeypatch.setattr(onednn, "FEWEST", 0)

    def counted(*args, **kwargs):
        calls.append(kwargs)
        return product(*args, **kwargs)

    monkeypatch.setattr(onednn, "linear", counted)
    found = pipe.compress(frames, "What moves?", **ask)
    assert len(calls) > 50 and {"gelu_tanh": True} in calls
    assert found.allocations.tolist() == plain.allocations.tolist()
    torch.testing.assert_close(found.inputs_embeds, plain.inputs_embeds, rtol=1e-5, atol=1e-5)
