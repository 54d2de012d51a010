"""A GPU in NumPy that runs one launch of a kernel: an instruction for all threads of many blocks.

Threads that may go on and are furthest behind in the text take the next block of instructions
together, the others wait: so those that parted meet again where they can. A thread at a barrier
waits until all of its block are there. Blocks run at once, as many as fit; those of a kernel with
atomics in a random order, and by the seed one after another or any number at once.

Source: NVIDIA's "PTX ISA", sections "Programming Model", "Control Flow Instructions", "Parallel
Synchronization and Communication Instructions".
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from . import access, conversions, floats, integers, warps  # noqa: F401 - they fill the table
from .approximations import Errors
from .memory import Global, Local, Shared
from .order import BlockOrder
from .pointers import written_parameters
from .program import ENDS_A_BLOCK, FaultError, Instruction, Program
from .races import Accessors, key, time_of
from .table import CARRY, STORED, Step, bind

__all__ = ["Machine", "run"]

# Threads that run at once: more cost less each, until their registers leave the cache.
THREADS_AT_ONCE = 1 << 15
# Into so many parts a launch is cut at most to see its blocks run one after another.
MOST_TURNS = 32
# Blocks along each axis of a grid.
LARGEST_GRID = (2**31 - 1, 65535, 65535)
# What a register holds that was never written.
_NONSENSE = {"pred": False, "b16": 0x7FA5, "b32": 0x7FA5A5A5, "b64": 0x7FF5A5A5A5A5A5A5}


class _Loaded(NamedTuple):
    """A program with the step of every instruction, None where a thread's way parts."""

    blocks: list[list[tuple[Instruction, Step | None]]]
    written: set[str]
    has_atomics: bool
    acquires: bool


_loaded: weakref.WeakKeyDictionary[Program, _Loaded] = weakref.WeakKeyDictionary()


def _load(program: Program) -> _Loaded:
    """Raises FaultError for the first instruction that isn't known."""
    if program not in _loaded:
        opcodes = [instruction.opcode for instruction in program.instructions]
        blocks = [
            [(x, None if x.opcode in ENDS_A_BLOCK else bind(x, program)) for x in block]
            for block in program.blocks
        ]
        for block in blocks:
            for instruction, step in block:
                if step is None:
                    _check_control(instruction, program)
        _loaded[program] = _Loaded(
            blocks,
            written_parameters(program),
            any(opcode.startswith("atom.") for opcode in opcodes),
            any(".acq_rel." in opcode for opcode in opcodes),
        )
    return _loaded[program]


def _check_control(instruction: Instruction, program: Program) -> None:
    opcode, operands = instruction.opcode, instruction.operands
    branches = opcode.startswith("bra")
    fits = operands == (("0",) if opcode == "bar.sync" else ())
    if branches:
        fits = len(operands) == 1 and operands[0] in program.labels
    if not fits:
        raise FaultError(f"{program.name}: {instruction.text}: not known with such operands")


def run(
    program: Program,
    grid: tuple[int, int, int],
    arguments: Mapping[str, bytes],
    tensors: Iterable[tuple[int, int]] = (),
    *,
    shared: int = 0,
    seed: int = 0,
    launch: int = 0,
) -> None:
    """Runs a launch; raises FaultError for what a GPU would not do, or not do reliably.

    arguments: each parameter's bytes. tensors: (address, size) of what may be accessed.
    shared: bytes of shared memory a block. seed: of the machine; launch: the launch's number on it.
    """
    Machine(program, grid, arguments, tensors, shared=shared, seed=seed, launch=launch).run()


class Machine:
    """One launch.

    lanes: threads that run now. registers: their values by name, a number a thread or one for all,
    in arrays that are never changed. keys, since: who they are at what time, and when their blocks
    last met.
    """

    def __init__(self, program, grid, arguments, tensors=(), *, shared=0, seed=0, launch=0) -> None:
        self.program, self.grid, self.arguments = program, grid, arguments
        self._loaded = _load(program)
        if any(not 0 < size <= most for size, most in zip(grid, LARGEST_GRID, strict=True)):
            raise FaultError(f"{program.name}: a grid of {grid}")
        self.rng, self.errors = np.random.default_rng([seed, launch]), Errors(seed)
        self.globals = Global(self._spans(tensors))
        self._shared_size = shared
        blocks = grid[0] * grid[1] * grid[2]
        self.order = BlockOrder(blocks) if self._loaded.acquires else None

    def _spans(self, tensors) -> Iterator[tuple[int, int, bool]]:
        names = self._loaded.written
        written = {int.from_bytes(self.arguments[name], "little") for name in names}
        for address, size in tensors:
            yield address, size, any(address <= x <= address + size for x in written)
        for table in self.program.tables.values():
            yield table.ctypes.data, table.nbytes, False

    def run(self) -> None:
        blocks = np.arange(self.grid[0] * self.grid[1] * self.grid[2])
        at_once = max(1, THREADS_AT_ONCE // self.program.threads)
        if self._loaded.has_atomics:
            self.rng.shuffle(blocks)
            fewest = -(-len(blocks) // MOST_TURNS)
            any_number = self.rng.integers(fewest, max(fewest, at_once) + 1)
            at_once = int(self.rng.choice([fewest, any_number, at_once]))
        with np.errstate(all="ignore"):
            for first in range(0, len(blocks), at_once):
                self._start(blocks[first : first + at_once])
                self._run()

    def _start(self, blocks: np.ndarray) -> None:
        threads = self.program.threads
        self.lanes = lanes = len(blocks) * threads
        thread = np.tile(np.arange(threads, dtype=np.uint32), len(blocks))
        self.blocks, self.place = blocks, np.repeat(np.arange(len(blocks)), threads)
        self.warp_lane = (thread & 31).astype(np.int64)
        x, y, z = (np.uint32(size) for size in self.grid)
        block = blocks[self.place if len(blocks) > 1 else [0]].astype(np.uint32)
        numbers = {"%tid.x": thread, "%laneid": thread & np.uint32(31), "%ntid.x": threads}
        numbers |= {"%ctaid.x": block % x, "%ctaid.y": block // x % y, "%ctaid.z": block // x // y}
        numbers |= {"%nctaid.x": x, "%nctaid.y": y, "%nctaid.z": z}
        self.special = {
            name: np.atleast_1d(np.asarray(number, np.uint32)) for name, number in numbers.items()
        }
        self.registers = {
            name: np.array([_NONSENSE[kind]], STORED[kind])
            for name, kind in self.program.registers.items()
        }
        self.registers[CARRY] = np.zeros(1, np.uint32)
        self.shared = Shared(self._shared_size, len(blocks))
        self.local = Local(lanes, self.program.local_size)
        self.keys = key(blocks[self.place] * threads + thread, 1)
        self.since = np.ones(lanes, np.int64)

    def _run(self) -> None:
        """All threads of the blocks that have been started, to their end."""
        end = len(self._loaded.blocks)
        place, waiting = np.zeros(self.lanes, np.int32), np.zeros(self.lanes, bool)
        block, mask = 0, None  # None is all
        while True:
            last, obeying = self._take(block, mask)
            nobody = obeying is not None and not obeying.any()
            if mask is None and (nobody or obeying is None):
                # They stay together.
                block = block + 1 if nobody else self._onward(last, block)
                if last is not None and last.opcode == "bar.sync" and not nobody:
                    self._meet()
                if block == end:
                    return
                continue
            if mask is None:
                place[:] = block + 1
            else:
                place[mask] = block + 1
            if last is not None and not nobody:
                place[obeying] = self._onward(last, block)
                waiting[obeying] = last.opcode == "bar.sync"
            ready = (place != end) & ~waiting
            if not ready.any():
                if not waiting.any():
                    return
                self._check_met(place, waiting)
                self._meet()
                ready, waiting[:] = place != end, False
            block = int(place[ready].min())
            mask = ready & (place == block)
            if mask.all():
                mask = None

    def _take(self, block: int, mask):
        """Runs a block for some threads; gives what ends it, and who obeys that."""
        for instruction, step in self._loaded.blocks[block]:
            chosen = mask
            if instruction.guard:
                chosen = self.registers[instruction.guard]
                if instruction.unless:
                    chosen = ~chosen
                if mask is not None:
                    chosen = chosen & mask
                if chosen.all():
                    chosen = None
            if step is None:
                return instruction, chosen
            if chosen is None or chosen is mask or chosen.any():
                try:
                    step(self, chosen)
                except FaultError as fault:
                    raise FaultError(f"{self.program.name}: {instruction.text}: {fault}") from None
        return None, mask

    def _onward(self, last: Instruction | None, block: int) -> int:
        """Where threads go that obey the end of a block."""
        if last is None or last.opcode == "bar.sync":
            return block + 1
        if last.opcode in ("ret", "exit"):
            return len(self._loaded.blocks)
        return self.program.labels[last.operands[0]]

    def _check_met(self, place, waiting) -> None:
        """Of a block whose threads wait, all must wait at one barrier."""
        threads = self.program.threads
        place, waiting = place.reshape(-1, threads), waiting.reshape(-1, threads)
        if (place != place[:, :1])[waiting.any(1)].any():
            name = self.program.name
            raise FaultError(
                f"{name}: some threads of a block wait at a barrier that others don't reach"
            )

    def _meet(self) -> None:
        """A barrier of every block: from now on is later than all before."""
        times = time_of(self.keys).reshape(-1, self.program.threads)
        later = np.broadcast_to(times.max(1, keepdims=True) + 1, times.shape)
        self.keys += (later - times).reshape(-1)
        self.since = later.reshape(-1)
        if self.order is not None:
            for block in self.blocks.tolist():
                self.order.meet(block)

    def warps_meet(self, mask) -> None:
        """bar.warp.sync"""
        self.keys[slice(None) if mask is None else mask] += 1

    def accessors(self, lanes) -> Accessors:
        """The threads of these lanes, now."""
        threads = self.program.threads
        return Accessors(self.keys[lanes], self.since[lanes], threads, self.order)
