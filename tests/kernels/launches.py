"""Launches that are recorded instead of run, and what in them no variant compiles."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import pytest
import torch
from triton.runtime.interpreter import InterpretedFunction
from triton.runtime.jit import JITFunction

from tempo_kernels import aot
from tempo_kernels.launch import Variant

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


class Launch(NamedTuple):
    """One launch: the kernel, its arguments by name, Triton's options."""

    kernel: Any
    arguments: dict[str, Any]
    options: dict[str, Any]

    @property
    def name(self) -> str:
        return getattr(self.kernel, "fn", self.kernel).__name__


def record(monkeypatch: pytest.MonkeyPatch) -> list[Launch]:
    """The list that every launch is put in from now on; nothing is run."""
    found = []

    def launch(self, *arguments, grid, warmup, **keywords):
        named = dict(zip(self.arg_names, arguments, strict=False)) | keywords
        options = {name: named.pop(name) for name in keywords if name not in self.arg_names}
        found.append(Launch(self, named, TRITON_DEFAULTS | options))

    monkeypatch.setattr(InterpretedFunction, "run", launch)
    monkeypatch.setattr(JITFunction, "run", launch)
    return found


def all_variants() -> list[tuple[str, Variant]]:
    """(operation, variant) of all that is compiled ahead of time."""
    return [
        (op, variant) for op, module in aot.operations().items() for variant in module.variants()
    ]


def fitting(
    launch: Launch, variants: Iterable[tuple[str, Variant]]
) -> tuple[list[str], dict[str, list[str]]]:
    """The variants that a launch is ("op, name"), and in what it differs from its kernel's others.

    A different launch of the same kernel is one that ahead-of-time compilation never saw.
    """
    unlike = {
        f"{op}, {variant.name}": differences(variant, launch.arguments, launch.options)
        for op, variant in variants
        if variant.kernel is launch.kernel
    }
    return [name for name, found in unlike.items() if not found], unlike


def differences(variant: Variant, arguments: dict, options: dict) -> list[str]:
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
