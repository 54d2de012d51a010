"""The table of instructions that the machine knows, each by its opcode with all modifiers.

An opcode that isn't in it is a FaultError when a kernel is loaded: no modifier is passed over.
`define` adds one that computes each thread's results from its operands; `bound` is for what needs
more of the machine. `bind` makes of an instruction the step that a machine takes for it.

Types are the PTX ISA's; bfloat16 and what is packed come as bits ("b16", "b32"). A function is
also given, without an operand, "errors" (what approximate instructions give) and "carry" (the carry
flag CC.CF), which may be a result too. A type with "?" is of an operand that may be missing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .program import FaultError, Instruction, Program

if TYPE_CHECKING:
    from .machine import Machine

__all__ = ["CARRY", "DTYPES", "STORED", "Step", "bind", "bound", "define"]
__all__ += ["listed", "reader", "writer"]

Step = Callable[["Machine", "np.ndarray | None"], None]
Reader = Callable[["Machine"], Any]
Writer = Callable[["Machine", Any, "np.ndarray | None"], None]

DTYPES = {"pred": np.dtype(bool), "f32": np.dtype("f4"), "f64": np.dtype("f8")}
DTYPES |= {f"{x}{bits}": np.dtype(f"u{bits // 8}") for x in "bu" for bits in (8, 16, 32, 64)}
DTYPES |= {f"s{bits}": np.dtype(f"i{bits // 8}") for bits in (8, 16, 32, 64)}
# What registers are kept as.
STORED = {name: DTYPES[name] for name in ("pred", "b16", "b32", "b64")}
CARRY = "CC.CF"
SPECIAL_REGISTERS = ("%tid.x", "%ntid.x", "%laneid")
SPECIAL_REGISTERS += tuple(f"%{name}.{axis}" for name in ("ctaid", "nctaid") for axis in "xyz")


class _Definition(NamedTuple):
    results: tuple[str, ...]
    operands: tuple[str, ...]
    function: Callable[..., Any]


_DEFINED: dict[str, _Definition] = {}
_BOUND: dict[str, Callable[[Instruction, Program], Step]] = {}


def define(opcode: str, results: str, operands: str, function: Callable[..., Any]) -> None:
    """An instruction that gives results of these types (with blanks between) for operands."""
    if opcode in _DEFINED or opcode in _BOUND:
        raise ValueError(f"{opcode} is defined twice")
    _DEFINED[opcode] = _Definition(tuple(results.split()), tuple(operands.split()), function)


def bound(*opcodes: str) -> Callable:
    """Decorates a function (instruction, program) → step for these opcodes."""

    def add(function):
        for opcode in opcodes:
            if opcode in _DEFINED or opcode in _BOUND:
                raise ValueError(f"{opcode} is defined twice")
            _BOUND[opcode] = function
        return function

    return add


def bind(instruction: Instruction, program: Program) -> Step:
    """The step that a machine takes for an instruction of a program."""
    opcode = instruction.opcode
    try:
        if opcode in _BOUND:
            return _BOUND[opcode](instruction, program)
        if opcode in _DEFINED:
            return _computed(_DEFINED[opcode], instruction, program)
    except FaultError as fault:
        raise FaultError(f"{program.name}: {instruction.text}: {fault}") from None
    raise FaultError(f"{program.name}: {instruction.text}: {opcode} is not known here")


def _computed(definition: _Definition, instruction: Instruction, program: Program) -> Step:
    results, types, function = definition
    destination, *operands = instruction.operands
    readers = _paired(types, operands, program, reader)
    writers = _paired(results, destination.split("|"), program, writer)
    if len(writers) == 1:
        (write,) = writers

        def step(machine, mask):
            write(machine, function(*[read(machine) for read in readers]), mask)

    else:

        def step(machine, mask):
            values = function(*[read(machine) for read in readers])
            for write, value in zip(writers, values, strict=True):
                write(machine, value, mask)

    return step


def _paired(types, operands, program, make):
    """A reader or writer for each type; what isn't written in the instruction comes by itself."""
    left, made = list(operands), []
    for kind in types:
        if kind in ("errors", "carry"):
            made.append(make(kind, kind, program))
        elif left:
            made.append(make(left.pop(0), kind.removesuffix("?"), program))
        elif not kind.endswith("?"):
            left = ["too few"]
    if left:
        raise FaultError("not known with such operands")
    return made


def listed(text: str) -> list[str]:
    """What is in braces; or the one operand."""
    return [x.strip() for x in text.strip("{} ").split(",")]


def reader(text: str, kind: str, program: Program) -> Reader:
    """Gives an operand as NumPy has its type: a number a thread, or one for all of them."""
    if kind == "errors":
        return lambda machine: machine.errors
    dtype = DTYPES["b32" if kind == "carry" else kind]
    name = CARRY if kind == "carry" else text
    if name in program.registers or name == CARRY:
        stored = _stored(name, dtype, program)
        if stored == dtype:
            return lambda machine: machine.registers[name]
        return lambda machine: machine.registers[name].view(dtype)
    if name in SPECIAL_REGISTERS:
        if dtype.itemsize != 4:
            raise FaultError(f"{name} has 32 bits")
        return lambda machine: machine.special[name].view(dtype)
    value = _constant(text, dtype, program)
    return lambda machine: value


def _stored(name: str, dtype: np.dtype, program: Program) -> np.dtype:
    stored = STORED["b32" if name == CARRY else program.registers[name]]
    if stored.itemsize != dtype.itemsize or (stored.kind == "b") != (dtype.kind == "b"):
        raise FaultError(f"{name} is no register of {dtype.itemsize} bytes")
    return stored


def _constant(text: str, dtype: np.dtype, program: Program):
    """A number as written, or a variable's address."""
    bits = dtype.itemsize * 8
    if dtype.kind == "b":
        return np.array([int(text, 0) != 0])
    if text[:2] in ("0f", "0d"):
        if bits != {"0f": 32, "0d": 64}[text[:2]]:
            raise FaultError(f"{text} is no operand of {bits} bits")
        value = int(text[2:], 16)
    elif text == program.shared:
        value = 0
    elif text in program.local_offsets:
        value = program.local_offsets[text]
    elif text in program.tables:
        value = program.tables[text].ctypes.data
    else:
        try:
            value = int(text.removesuffix("U"), 0)
        except ValueError:
            raise FaultError(f"{text} is not understood") from None
    if not -(1 << bits - 1) <= value < 1 << bits:
        raise FaultError(f"{text} is no operand of {bits} bits")
    return np.array([value & ((1 << bits) - 1)], f"u{bits // 8}").view(dtype)


def writer(text: str, kind: str, program: Program) -> Writer:
    """Takes a register's new values; `_` takes none."""
    if text == "_":
        return lambda machine, value, mask: None
    name = CARRY if kind == "carry" else text
    if name not in program.registers and name != CARRY:
        raise FaultError(f"{name} is no register")
    stored = _stored(name, DTYPES["b32" if kind == "carry" else kind], program)

    def write(machine, value, mask):
        if value.dtype != stored:
            if value.dtype.itemsize != stored.itemsize:
                raise TypeError(f"{value.dtype} comes for {name}")
            value = value.view(stored)
        # Registers' arrays are never changed: a mov gives two registers the same one.
        registers = machine.registers
        registers[name] = value if mask is None else np.where(mask, value, registers[name])

    return write
