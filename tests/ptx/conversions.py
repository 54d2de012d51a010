"""`cvt` and `mov`.

Source: NVIDIA's "PTX ISA", section "Data Movement and Conversion Instructions".
"""

from __future__ import annotations

import numpy as np

from .program import FaultError, Instruction, Program
from .rounding import as_float32, flushed, joined, to_bfloat16
from .table import DTYPES, Step, bound, define, listed, reader, writer

_TO_WHOLE = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}


def _resized(target: str):
    """Cut off, or filled up with zeros or the sign."""
    dtype = DTYPES[target]
    return lambda a: a.astype(dtype)


def _clamped(source: str, target: str, to_whole):
    """A float as integer: clamped, and for NaN zero, or the top bit alone where 64 bits are."""
    dtype = DTYPES[target].type
    limits = np.iinfo(dtype)
    wide = "64" in source + target
    of_nan = np.array([1 << limits.bits - 1], f"u{limits.bits // 8}").view(dtype)[0]
    of_nan = of_nan if wide else dtype(0)

    def convert(a):
        whole = to_whole(a.astype(np.float64))
        # The largest 64-bit integers aren't float64; the powers of two above them are.
        above, below = whole >= float(limits.max + 1), whole < float(limits.min)
        outside = above | below | np.isnan(whole)
        found = np.where(outside, 0.0, whole).astype(dtype)
        found = np.where(above, dtype(limits.max), found)
        found = np.where(below, dtype(limits.min), found)
        return np.where(np.isnan(whole), of_nan, found)

    return convert


def _pair_to_bfloat16(a, b):
    """cvt.rn.bf16x2.f32: the first operand is the upper half."""
    return joined(*np.broadcast_arrays(to_bfloat16(b), to_bfloat16(a)))


def _after_flush(function):
    return lambda a: function(flushed(a))


_INTEGERS = tuple(kind + size for kind in "us" for size in ("16", "32", "64"))
for _integer in _INTEGERS:
    for _other in _INTEGERS:
        if _other != _integer:
            define(f"cvt.{_other}.{_integer}", _other, _integer, _resized(_other))
    for _float in ("f32", "f64"):
        define(f"cvt.rn.{_float}.{_integer}", _float, _integer, _resized(_float))
        for _name, _function in _TO_WHOLE.items():
            _convert = _clamped(_float, _integer, _function)
            define(f"cvt.{_name}.{_integer}.{_float}", _integer, _float, _convert)
            if _float == "f32":
                _flushing = _after_flush(_convert)
                define(f"cvt.{_name}.ftz.{_integer}.f32", _integer, "f32", _flushing)
for _name, _function in _TO_WHOLE.items():
    define(f"cvt.{_name}.f32.f32", "f32", "f32", _function)
    define(f"cvt.{_name}.ftz.f32.f32", "f32", "f32", _after_flush(_function))
    define(f"cvt.{_name}.f64.f64", "f64", "f64", _function)
define("cvt.f64.f32", "f64", "f32", _resized("f64"))
define("cvt.rn.f32.f64", "f32", "f64", _resized("f32"))
define("cvt.f32.bf16", "f32", "b16", as_float32)
define("cvt.rn.bf16.f32", "b16", "f32", to_bfloat16)
define("cvt.rn.bf16x2.f32", "b32", "f32 f32", _pair_to_bfloat16)


@bound("mov.pred", "mov.f32", "mov.f64")
@bound(*(f"mov.{kind}{bits}" for kind in "bus" for bits in (16, 32, 64)))
def _move(instruction: Instruction, program: Program) -> Step:
    """One register, several as one, or one as several; the first of several is lowest."""
    kind = instruction.opcode.removeprefix("mov.")
    if len(instruction.operands) != 2:
        raise FaultError("two operands are needed")
    targets, sources = map(listed, instruction.operands)
    bits = DTYPES[kind].itemsize * 8
    if len(targets) > 1 and len(sources) > 1:
        raise FaultError("several registers to several")
    reads = [reader(text, _part(kind, bits, len(sources)), program) for text in sources]
    writes = [writer(text, _part(kind, bits, len(targets)), program) for text in targets]
    part = bits // max(len(targets), len(sources))

    def step(machine, mask):
        values = [read(machine) for read in reads]
        if len(values) > 1:
            whole = DTYPES[f"u{bits}"].type
            value = whole(0)
            for place, lower in enumerate(values):
                value = value | lower.astype(whole) << whole(part * place)
            values = [value]
        elif len(writes) > 1:
            (value,) = values
            narrow, unit = DTYPES[f"u{part}"], value.dtype.type
            values = [(value >> unit(part * i)).astype(narrow) for i in range(len(writes))]
        for write, value in zip(writes, values, strict=True):
            write(machine, value, mask)

    return step


def _part(kind: str, bits: int, count: int) -> str:
    return kind if count == 1 else f"b{bits // count}"
