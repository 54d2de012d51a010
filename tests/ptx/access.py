"""Loads, stores and atomics.

Source: NVIDIA's "PTX ISA", sections "Data Movement and Conversion Instructions" (ld, ld.global.nc,
st), "Parallel Synchronization and Communication Instructions" (atom).
"""

from __future__ import annotations

import re

import numpy as np

from .program import FaultError, Instruction, Program
from .table import DTYPES, STORED, Step, bound, listed, reader

__all__ = ["address", "load_shared", "store_shared"]

_ADDRESS = re.compile(r"\[\s*(%?[\w$]+)\s*(?:\+\s*(-?\w+))?\s*\]")
_KINDS = [kind + size for kind in "bus" for size in ("8", "16", "32", "64")] + ["f32", "f64"]
_VECTORS = ("", ".v2", ".v4")
# `.nc` promises that the kernel writes nothing there; the others only choose a cache.
_CACHES = ("", ".nc", ".ca", ".cg")


def _opcodes(*starts: str) -> list[str]:
    return [f"{start}{vector}.{kind}" for start in starts for vector in _VECTORS for kind in _KINDS]


def address(text: str, program: Program, bits: int | None = None):
    """Gives where an operand in brackets is, for all threads, as int64.

    bits: what its register must have; None is any number.
    """
    found = _ADDRESS.fullmatch(text)
    if not found:
        raise FaultError(f"{text} is no address")
    base, offset = found[1], int(found[2] or "0", 0)
    size = STORED[program.registers[base]].itemsize * 8 if base in program.registers else bits
    if bits not in (None, size):
        raise FaultError(f"{text} is no address of {bits} bits")
    read = reader(base, f"s{size or 64}" if size == 64 else "u32", program)

    def where(machine):
        value = read(machine).astype(np.int64) + offset
        return np.broadcast_to(value, machine.lanes)

    return where


def _widener(text: str, kind: str, program: Program):
    """Takes what is loaded: a wider register gets zeros in front, or the sign."""
    if text == "_":
        return lambda machine, values, lanes: None
    if text not in program.registers or program.registers[text] == "pred":
        raise FaultError(f"{text} is no register")
    stored, dtype = STORED[program.registers[text]], DTYPES[kind]
    if stored.itemsize < dtype.itemsize:
        raise FaultError(f"{text} is too small")

    def put(machine, values, lanes):
        if stored.itemsize != dtype.itemsize:
            values = values.view(dtype).astype(stored)
        if isinstance(lanes, slice):
            machine.registers[text] = np.ascontiguousarray(values)
        else:
            changed = np.array(np.broadcast_to(machine.registers[text], machine.lanes))
            changed[lanes] = values
            machine.registers[text] = changed

    return put


def _lanes(mask):
    return slice(None) if mask is None else np.flatnonzero(mask)


@bound(*_opcodes("ld.param"))
def _load_parameter(instruction: Instruction, program: Program) -> Step:
    kind = instruction.opcode.removeprefix("ld.param.")
    target, source = instruction.operands
    name = source.strip("[] ")
    dtype = DTYPES.get(kind)
    if dtype is None or program.parameters.get(name) != dtype.itemsize:
        raise FaultError(f"{name} is no parameter of that size")
    put = _widener(target, kind, program)
    stored = np.dtype(f"u{dtype.itemsize}")

    def step(machine, mask):
        value = np.frombuffer(machine.arguments[name], stored)
        lanes = _lanes(mask)
        put(machine, value if mask is None else value.repeat(len(lanes)), lanes)

    return step


@bound(*_opcodes("ld.shared", "ld.local", *(f"ld.global{cache}" for cache in _CACHES)))
def _load(instruction: Instruction, program: Program) -> Step:
    _, space, *modifiers, kind = instruction.opcode.split(".")
    targets, size = listed(instruction.operands[0]), DTYPES[kind].itemsize
    _check_count(instruction, targets)
    puts = [_widener(text, kind, program) for text in targets]
    where = address(instruction.operands[1], program, {"global": 64, "shared": 32}.get(space))
    fetch = {"global": _fetch_global, "shared": _fetch_shared, "local": _fetch_local}[space]
    used_bytes = instruction.used_bytes
    unchanging = "nc" in modifiers

    def step(machine, mask):
        lanes = _lanes(mask)
        at = where(machine)[lanes]
        values = fetch(machine, at, lanes, size, len(puts), used_bytes, unchanging)
        for i, put in enumerate(puts):
            put(machine, values[:, i], lanes)

    return step


def _check_count(instruction: Instruction, operands: list[str]) -> None:
    vector = re.search(r"\.v(\d)", instruction.opcode)
    if len(operands) != (int(vector[1]) if vector else 1) or len(instruction.operands) != 2:
        raise FaultError("not known with such operands")


def _fetch_global(machine, at, lanes, size, count, used_bytes, unchanging):
    values = np.empty((len(at), count), f"u{size}")
    who = None
    for region, chosen, place in machine.globals.locate(at, size * count):
        values[chosen] = region.words(size, count)[place // (size * count)]
        if region.shadow is not None:
            who = who or machine.accessors(lanes)
            region.shadow.read(place, size * count, who.chosen(chosen), used_bytes)
            if unchanging:
                region.shadow.check_unwritten(place, size * count)
    return values


def load_shared(machine, at, lanes, size, count, used_bytes=-1):
    """Rows of words of shared memory for the threads of these lanes."""
    shared = machine.shared
    place = shared.locate(at, size * count, machine.place[lanes])
    shared.shadow.check_written(place, size * count, used_bytes)
    shared.shadow.read(place, size * count, machine.accessors(lanes), used_bytes)
    return shared.words(size, count)[place // (size * count)]


def _fetch_shared(machine, at, lanes, size, count, used_bytes, unchanging):
    return load_shared(machine, at, lanes, size, count, used_bytes)


def _fetch_local(machine, at, lanes, size, count, used_bytes, unchanging):
    return machine.local.load(np.arange(machine.lanes)[lanes], at, size, count)


@bound(*_opcodes("st.global", "st.shared", "st.local"))
def _store(instruction: Instruction, program: Program) -> Step:
    _, space, *_, kind = instruction.opcode.split(".")
    size, sources = DTYPES[kind].itemsize, listed(instruction.operands[1])
    _check_count(instruction, sources)
    reads = [_narrowed(text, size, program) for text in sources]
    where = address(instruction.operands[0], program, {"global": 64, "shared": 32}.get(space))
    put = {"global": _put_global, "shared": store_shared, "local": _put_local}[space]

    def step(machine, mask):
        lanes = _lanes(mask)
        at = where(machine)[lanes]
        values = np.empty((len(at), len(reads)), f"u{size}")
        for i, read in enumerate(reads):
            values[:, i] = np.broadcast_to(read(machine), machine.lanes)[lanes]
        put(machine, at, lanes, values)

    return step


def _narrowed(text: str, size: int, program: Program):
    """Gives what is stored of an operand: of a wider register the lower bytes."""
    if text not in program.registers:
        return reader(text, f"b{8 * size}", program)
    stored, dtype = STORED[program.registers[text]], np.dtype(f"u{size}")
    if stored.kind == "b" or stored.itemsize < size:
        raise FaultError(f"{text} is too small")
    return lambda machine: machine.registers[text].astype(dtype, copy=False)


def _replace(region, place, values, who) -> None:
    """Stores rows of words in a region and notes by whom."""
    size, count = values.itemsize, values.shape[1]
    words, row = region.words(size, count), place // (size * count)
    if region.shadow is None:
        raise AssertionError("a kernel stores where `pointers` says that it doesn't")
    region.shadow.check_write(place, size * count, who)
    words[row] = values
    octets = np.ascontiguousarray(values).view(np.uint8)
    present = np.ascontiguousarray(words[row]).view(np.uint8)
    region.shadow.note_write(place, octets, present, who)


def _put_global(machine, at, lanes, values):
    who = machine.accessors(lanes)
    for region, chosen, place in machine.globals.locate(at, values.shape[1] * values.itemsize):
        _replace(region, place, values[chosen], who.chosen(chosen))


def store_shared(machine, at, lanes, values):
    """Rows of words to shared memory by the threads of these lanes."""
    size = values.shape[1] * values.itemsize
    place = machine.shared.locate(at, size, machine.place[lanes])
    _replace(machine.shared, place, values, machine.accessors(lanes))


def _put_local(machine, at, lanes, values):
    machine.local.store(np.arange(machine.lanes)[lanes], at, values)


@bound("atom.global.gpu.acq_rel.add.u32", "atom.global.gpu.relaxed.add.u32")
@bound("atom.global.gpu.relaxed.add.u64")
def _add_atomically(instruction: Instruction, program: Program) -> Step:
    """In a random order of the threads."""
    kind = instruction.opcode.rpartition(".")[2]
    target, place, operand = instruction.operands
    size, put = DTYPES[kind].itemsize, _widener(target, kind, program)
    where, read = address(place, program, 64), reader(operand, kind, program)
    acquires = ".acq_rel." in instruction.opcode

    def step(machine, mask):
        lanes = machine.rng.permutation(np.arange(machine.lanes)[_lanes(mask)])
        at = where(machine)[lanes]
        values = np.broadcast_to(read(machine), machine.lanes)[lanes]
        found, who = np.empty_like(values), machine.accessors(lanes)
        for region, chosen, place in machine.globals.locate(at, size):
            words = region.words(size, 1)[:, 0]
            region.shadow.check_atomic(place, size, who.chosen(chosen))
            found[chosen] = _added_in_turn(words, place // size, values[chosen])
        if acquires:
            blocks, since = machine.blocks[machine.place[lanes]], machine.since[lanes]
            for one in zip(at.tolist(), blocks.tolist(), since.tolist(), strict=True):
                machine.order.exchange(*one)
        put(machine, found, lanes)

    return step


def _added_in_turn(words, index, values):
    """Adds the values one after another; gives what each of them has found."""
    turn = np.argsort(index, kind="stable")
    sums = np.cumsum(values[turn], dtype=values.dtype) - values[turn]
    _, first, number = np.unique(index[turn], return_index=True, return_inverse=True)
    found = np.empty_like(values)
    found[turn] = words[index[turn]] + sums - sums[first][number]
    np.add.at(words, index, values)
    return found
