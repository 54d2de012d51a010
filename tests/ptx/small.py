"""Small kernels for the tests of the machine: PTX around a few instructions, on NumPy's arrays."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from .machine import run
from .program import Program, read

__all__ = ["FORMATS", "compute", "kernel", "launch", "nearest"]

_REGISTERS = {1: "%rs", 2: "%rs", 4: "%r", 8: "%rd"}
# Bits of a fraction with the one in front, and the exponent of the least number.
FORMATS = {"f32": (24, -149), "f64": (53, -1074), "bf16": (8, -133)}


def kernel(body: str, pointers: int, threads: int = 32) -> Program:
    """A kernel of 64-bit parameters, which are in %rd1, %rd2, …; the thread's number is in %r0."""
    names = [f"p_{i}" for i in range(1, pointers + 1)]
    parameters = ",\n".join(f".param .u64 .ptr .global .align 1 {name}" for name in names)
    loads = "\n".join(f"ld.param.b64 %rd{i}, [{x}];" for i, x in enumerate(names, 1))
    return read(f""".version 8.7
.target sm_90a
.address_size 64
.extern .shared .align 16 .b8 global_smem[];
.visible .entry small({parameters})
.reqntid {threads}
{{
.reg .pred %p<8>;
.reg .b16 %rs<32>;
.reg .b32 %r<64>;
.reg .b64 %rd<64>;
{loads}
mov.u32 %r0, %tid.x;
{body}
ret;
}}
""")


def launch(
    body: str, *tensors: np.ndarray, threads: int = 32, blocks: int = 1, shared=0, seed=0
) -> None:
    """Runs a small kernel on tensors, which it may change."""
    program = kernel(body, len(tensors), threads)
    addresses = [x.ctypes.data.to_bytes(8, "little") for x in tensors]
    arguments = dict(zip(program.parameters, addresses, strict=True))
    spans = [(x.ctypes.data, x.nbytes) for x in tensors]
    run(program, (blocks, 1, 1), arguments, spans, shared=shared, seed=seed)


def compute(opcode: str, result: str, *operands, seed: int = 0) -> np.ndarray:
    """What one instruction gives for each row of operands; `result` is NumPy's type or "pred"."""
    arrays = [np.atleast_1d(x) for x in operands]
    (count,) = np.broadcast_shapes(*(x.shape for x in arrays))
    threads = -(-count // 32) * 32
    arrays = [np.resize(np.broadcast_to(x, count), threads) for x in arrays]
    dtype = np.dtype("u4" if result == "pred" else result)
    arrays.append(np.zeros(threads, dtype))
    lines = []
    for i, x in enumerate(arrays):
        lines.append(f"mad.wide.u32 %rd{20 + i}, %r0, {x.itemsize}, %rd{i + 1};")
        if i + 1 < len(arrays):
            target = f"{_REGISTERS[x.itemsize]}{30 + i if x.itemsize > 2 else 10 + i}"
            lines.append(f"ld.global.b{8 * x.itemsize} {target}, [%rd{20 + i}];")
    sources = [
        f"{_REGISTERS[x.itemsize]}{30 + i if x.itemsize > 2 else 10 + i}"
        for i, x in enumerate(arrays)
    ]
    *sources, target = sources
    if result == "pred":
        lines += [f"{opcode} %p1, {', '.join(sources)};", f"selp.b32 {target}, 1, 0, %p1;"]
    else:
        lines.append(f"{opcode} {target}, {', '.join(sources)};")
    lines.append(f"st.global.b{8 * dtype.itemsize} [%rd{20 + len(sources)}], {target};")
    launch("\n".join(lines), *arrays, threads=threads, seed=seed)
    return arrays[-1][:count].astype(bool) if result == "pred" else arrays[-1][:count]


def nearest(exact: Fraction, name: str) -> float:
    """A number rounded once to a format, ties to even; none here is too large for it."""
    precision, least = FORMATS[name]
    if not exact:
        return 0.0
    exponent = abs(exact.numerator).bit_length() - exact.denominator.bit_length()
    exponent -= abs(exact) < Fraction(2) ** exponent
    unit = Fraction(2) ** max(exponent - precision + 1, least)
    return float(round(exact / unit) * unit)
