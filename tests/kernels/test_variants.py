"""What is compiled ahead of time is what is launched, at the widths of Tempo-6B."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from triton.runtime.interpreter import InterpretedFunction
from triton.runtime.jit import JITFunction

from tempo_kernels import aot
from tempo_kernels.launch import Variant

ROOT = Path(__file__).parents[2]
TYPES = {
    torch.bfloat16: "*bf16",
    torch.float32: "*fp32",
    torch.int64: "*i64",
    torch.int32: "*i32",
    torch.uint8: "*u8",
    int: "i32",
    float: "fp32",
}
TRITON_DEFAULTS = {"num_warps": 4, "num_stages": 3, "enable_fp_fusion": True}


@pytest.fixture
def launches(monkeypatch) -> list[tuple]:
    """(kernel, arguments by name, options) of every launch; nothing is run."""
    found = []

    def record(self, *arguments, grid, warmup, **keywords):
        named = dict(zip(self.arg_names, arguments, strict=False)) | keywords
        options = {name: named.pop(name) for name in keywords if name not in self.arg_names}
        found.append((self, named, TRITON_DEFAULTS | options))

    monkeypatch.setattr(InterpretedFunction, "run", record)
    monkeypatch.setattr(JITFunction, "run", record)
    return found


def _differences(variant: Variant, arguments: dict, options: dict) -> list[str]:
    """In what a launch is not what `variant` compiles."""
    compiled = variant.signature | variant.constants
    compiled |= {"num_warps": variant.num_warps, "num_stages": variant.num_stages}
    compiled |= {"enable_fp_fusion": variant.fp_fusion}
    launched = options | {
        name: TYPES[value.dtype]
        if isinstance(value, torch.Tensor)
        else value
        if name in variant.constants
        else TYPES.get(type(value))
        for name, value in arguments.items()
    }
    found = [
        f"{name} is {launched.get(name)!r}, not {compiled.get(name)!r}"
        for name in compiled.keys() | launched.keys()
        if launched.get(name) != compiled.get(name)
    ]
    for name in variant.divisible:
        value = arguments[name]
        if (value.data_ptr() if isinstance(value, torch.Tensor) else value or 0) % 16:
            found.append(f"{name} is no multiple of 16")
    return found


def test_every_launch_of_the_benchmarks_is_a_variant(device, launches, monkeypatch, check_indices):
    check_indices("never")  # what isn't computed here are indices of anything
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks.kernel_cases import CASES

    variants = [
        (op, variant) for op, module in aot.operations().items() for variant in module.variants()
    ]
    launched_operations = set()
    for case in CASES:
        launches.clear()
        call = case.call(device)
        call.kernel(*call.arguments, **call.keywords)
        assert launches, f"{case.op} launched nothing"
        for kernel, arguments, options in launches:
            own = [(op, variant) for op, variant in variants if variant.kernel is kernel]
            differences = {
                f"{op}, {variant.name}": _differences(variant, arguments, options)
                for op, variant in own
            }
            name = getattr(kernel, "fn", kernel).__name__
            assert not all(differences.values()), f"{case.op}: {name} launched as {differences}"
            launched_operations |= {op for op, _ in own}
    assert launched_operations == {op for op, _ in variants}, "an operation has no benchmark"


def test_a_launch_that_is_no_variant_is_noticed():
    variant = Variant("bf16", None, {"x": "*bf16", "rows": "i32"}, {"D": 64}, ("x",), num_warps=4)
    x = torch.zeros(32, dtype=torch.bfloat16)
    right = {"x": x, "rows": 3, "D": 64}
    assert _differences(variant, right, TRITON_DEFAULTS) == []
    assert _differences(variant, right | {"D": 128}, TRITON_DEFAULTS) == ["D is 128, not 64"]
    assert _differences(variant, right, TRITON_DEFAULTS | {"num_warps": 8})
    assert _differences(variant, right | {"x": x.float()}, TRITON_DEFAULTS)
    shifted = _differences(variant, right | {"x": x[1:]}, TRITON_DEFAULTS)
    assert shifted == ["x is no multiple of 16"]
