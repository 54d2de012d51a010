"""What the threads of a warp do together: all 32 take part, or it is a FaultError.

Of these only `bar.warp.sync` orders their accesses to memory.

Source: NVIDIA's "PTX ISA", sections "Data Movement and Conversion Instructions" (shfl.sync),
"Parallel Synchronization and Communication Instructions" (redux.sync, bar.warp.sync), "Warp Level
Matrix Instructions" (ldmatrix, stmatrix).
"""

from __future__ import annotations

import numpy as np

from .access import address, load_shared, store_shared
from .program import FaultError, Instruction, Program
from .table import DTYPES, Step, bound, listed, reader, writer

_EVERYONE = np.array([0xFFFFFFFF], np.uint32)


def _check_whole(mask, members=_EVERYONE) -> None:
    """Warps take part as a whole, and say so."""
    if mask is not None:
        present = mask.reshape(-1, 32)
        if (present.any(1) & ~present.all(1)).any():
            raise FaultError("some threads of a warp take part, and others don't")
    others = members != _EVERYONE
    if (others if mask is None else others & mask).any():
        raise FaultError("a mask that doesn't name the whole warp")


@bound("bar.warp.sync")
def _meet(instruction: Instruction, program: Program) -> Step:
    members = reader(instruction.operands[0], "b32", program)

    def step(machine, mask):
        _check_whole(mask, members(machine))
        machine.warps_meet(mask)

    return step


def _from_above(lane, distance, bound, segment):
    source = lane - distance
    return source, source >= (lane & segment) | (bound & ~segment)


def _from_below(lane, distance, bound, segment):
    source = lane + distance
    return source, source <= (lane & segment) | (bound & ~segment)


def _across(lane, distance, bound, segment):
    source = lane ^ distance
    return source, source <= (lane & segment) | (bound & ~segment)


def _chosen(lane, place, bound, segment):
    source = (lane & segment) | (place & ~segment)
    return source, source <= (lane & segment) | (bound & ~segment)


_SOURCES = {"up": _from_above, "down": _from_below, "bfly": _across, "idx": _chosen}


@bound(*(f"shfl.sync.{kind}.b32" for kind in _SOURCES))
def _shuffle(instruction: Instruction, program: Program) -> Step:
    """A register of another lane; one's own where that lies outside of the segment."""
    source_of = _SOURCES[instruction.opcode.split(".")[2]]
    target, *operands = instruction.operands
    value, distance, limits, members = (reader(text, "b32", program) for text in operands)
    name, *valid = target.split("|")
    put = writer(name, "b32", program)
    puts_valid = [writer(text, "pred", program) for text in valid]

    def step(machine, mask):
        _check_whole(mask, members(machine))
        lane, limit = machine.warp_lane, limits(machine).astype(np.int64)
        away = distance(machine).astype(np.int64) & 31
        source, inside = source_of(lane, away, limit & 31, limit >> 8 & 31)
        source = np.where(inside, source, lane)
        values = np.broadcast_to(value(machine), machine.lanes)
        put(machine, values[np.arange(machine.lanes) - lane + source], mask)
        for put_valid in puts_valid:
            put_valid(machine, inside, mask)

    return step


_REDUCTIONS = {"add": np.add, "min": np.minimum, "max": np.maximum}
_REDUCTIONS_OF_FLOATS = {"min": np.fmin, "max": np.fmax}


@bound(*(f"redux.sync.{name}.{kind}" for name in _REDUCTIONS for kind in ("s32", "u32")))
@bound(*(f"redux.sync.{name}.f32" for name in _REDUCTIONS_OF_FLOATS))
def _reduce(instruction: Instruction, program: Program) -> Step:
    """One number of a warp's 32 to all of its threads; NaN only of NaNs."""
    name, kind = instruction.opcode.split(".")[2:]
    reduction = (_REDUCTIONS_OF_FLOATS if kind == "f32" else _REDUCTIONS)[name]
    target, *operands = instruction.operands
    value, members = (reader(x, t, program) for x, t in zip(operands, (kind, "b32"), strict=True))
    put, dtype = writer(target, kind, program), DTYPES[kind]

    def step(machine, mask):
        _check_whole(mask, members(machine))
        values = np.broadcast_to(value(machine), machine.lanes).reshape(-1, 32)
        put(machine, reduction.reduce(values, 1, dtype=dtype).repeat(32), mask)

    return step


_MATRICES = [
    f"{name}.sync.aligned.m8n8.x{count}{transposed}.shared.b16"
    for name in ("ldmatrix", "stmatrix")
    for count in (1, 2, 4)
    for transposed in ("", ".trans")
]


def _transposed(rows):
    """Each 8 × 8 matrix of 16-bit numbers, given as rows of 4 words [rows, 4], the other way."""
    numbers = np.ascontiguousarray(rows).view(np.uint16).reshape(-1, 8, 8)
    return np.ascontiguousarray(numbers.transpose(0, 2, 1)).reshape(-1, 8).view(np.uint32)


@bound(*_MATRICES)
def _matrices(instruction: Instruction, program: Program) -> Step:
    """Lanes 8 i to 8 i + 7 have the addresses of matrix i's rows; each thread has two numbers."""
    loads = instruction.opcode.startswith("ldmatrix")
    turned = ".trans" in instruction.opcode
    registers, place = instruction.operands if loads else instruction.operands[::-1]
    names = listed(registers)
    if f".x{len(names)}." not in instruction.opcode:
        raise FaultError("not known with such operands")
    where = address(place, program, 32)
    if loads:
        puts = [writer(name, "b32", program) for name in names]
    else:
        reads = [reader(name, "b32", program) for name in names]

    def step(machine, mask):
        _check_whole(mask)
        at = where(machine)
        everyone = np.ones(machine.lanes, bool) if mask is None else mask
        for i in range(len(names)):
            lanes = np.flatnonzero(everyone & (machine.warp_lane // 8 == i))
            if loads:
                rows = load_shared(machine, at[lanes], lanes, 4, 4)
                values = np.zeros(machine.lanes, np.uint32)
                values[everyone] = (_transposed(rows) if turned else rows).reshape(-1)
                puts[i](machine, values, mask)
            else:
                values = np.broadcast_to(reads[i](machine), machine.lanes)
                rows = values[everyone].reshape(-1, 4)
                store_shared(machine, at[lanes], lanes, _transposed(rows) if turned else rows)

    return step
