"""Who has accessed which bytes: accesses of two threads that nothing orders are a race.

Threads of a warp are ordered by `bar.warp.sync`, those of a block by `bar.sync`, those of other
blocks by atomics that release and acquire (`order.py`); a warp's loads come before its own later
stores. One instruction may store the same value to one place for several threads.

A place's last writer is remembered, and of its readers the last one and one of another warp, or
better of another block: enough that whoever writes there next meets one whom it isn't ordered with.

Source: NVIDIA's "PTX ISA", section "Memory Consistency Model".
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .order import BlockOrder
from .program import FaultError

__all__ = ["ATOMIC", "Accessors", "Shadow"]

# A key is who and when: thread, whether it was an atomic, the thread's time.
_THREAD_SHIFT, ATOMIC = 32, np.int64(1 << 31)
_TIME = np.int64((1 << 31) - 1)
_WARP_SHIFT = _THREAD_SHIFT + 5
_NOBODY = np.int64(-1)


class Accessors(NamedTuple):
    """Threads that access memory in one step.

    keys: who and when. since: the time at which their block last met at a barrier.
    """

    keys: np.ndarray
    since: np.ndarray
    threads_of_a_block: int
    order: BlockOrder | None

    def chosen(self, index) -> Accessors:
        return self._replace(keys=self.keys[index], since=self.since[index])


def key(thread: np.ndarray, time: int) -> np.ndarray:
    """Who and when."""
    return thread.astype(np.int64) << _THREAD_SHIFT | np.int64(time)


def thread_of(keys: np.ndarray) -> np.ndarray:
    return keys >> _THREAD_SHIFT


def time_of(keys: np.ndarray) -> np.ndarray:
    return keys & _TIME


class Shadow:
    """The accesses to a region, kept for cells as small as the smallest access so far.

    of_one_block: each cell is accessed by threads of one block alone.
    """

    def __init__(self, size: int, of_one_block: bool) -> None:
        self._grain, self._of_one_block = 16, of_one_block
        self._writer = np.full(size // self._grain, _NOBODY)
        self._reader = np.full(size // self._grain, _NOBODY)
        self._other_reader = np.full(size // self._grain, _NOBODY)

    def _cells(self, at: np.ndarray, size: int) -> np.ndarray:
        """Cells of each access [accesses, cells]."""
        if size < self._grain:
            times, self._grain = self._grain // size, size
            self._writer = self._writer.repeat(times)
            self._reader = self._reader.repeat(times)
            self._other_reader = self._other_reader.repeat(times)
        first = at // self._grain
        if size == self._grain:
            return first[:, None]
        return first[:, None] + np.arange(size // self._grain)

    def _others(self, before, keys, who: Accessors, shift: int = _THREAD_SHIFT):
        """Which cells others have accessed (threads, or warps), but for those surely ordered."""
        found = (before != _NOBODY) & (before >> shift != keys >> shift)
        if self._of_one_block:
            found &= time_of(before) >= who.since[:, None]
        return found

    def check_written(self, at: np.ndarray, size: int, used_bytes: int) -> None:
        """Every byte must have been written that is used."""
        cells = self._used(at, size, used_bytes)
        if (self._writer[cells] == _NOBODY).any():
            raise FaultError("a thread reads shared memory that nobody has written")

    def check_unwritten(self, at: np.ndarray, size: int) -> None:
        cells = self._cells(at, size)
        if (self._writer[cells] != _NOBODY).any():
            raise FaultError("a load through the cache for constants of what this launch writes")

    def _used(self, at, size, used_bytes):
        if used_bytes == -1:
            return self._cells(at, size)
        cells, whole = self._cells(at, size), (1 << self._grain) - 1
        masks = [used_bytes >> self._grain * i & whole for i in range(cells.shape[1])]
        return cells[:, [i for i, mask in enumerate(masks) if mask]]

    def read(self, at: np.ndarray, size: int, who: Accessors, used_bytes: int = -1) -> None:
        """Notes a load, and that no store may be under way."""
        cells = self._used(at, size, used_bytes)
        keys = np.broadcast_to(who.keys[:, None], cells.shape)
        writer = self._writer[cells]
        foreign = self._others(writer, keys, who)
        if foreign.any():
            _raise_unordered("reads what", writer, foreign, who, keys, "wrote")
        self._remember(cells, self._reader[cells], keys, who)
        self._reader[cells] = keys
        # Of several that read a cell in this step, one is the last.
        self._remember(cells, keys, self._reader[cells], who)

    def _remember(self, cells, earlier, last, who: Accessors) -> None:
        """Notes earlier readers of cells, if they aren't of the last one's warp."""
        apart = (earlier != _NOBODY) & (earlier >> _WARP_SHIFT != last >> _WARP_SHIFT)
        if not apart.any():
            return
        cells, earlier, last = cells[apart], earlier[apart], last[apart]

        def block(keys):
            return thread_of(keys) // who.threads_of_a_block

        known = self._other_reader[cells]
        # One of another block than the last reader's stays.
        far = block(earlier) != block(last)
        known_far = (known != _NOBODY) & (block(known) != block(last))
        near = ~far & ~known_far
        self._other_reader[cells[near]] = earlier[near]
        self._other_reader[cells[far]] = earlier[far]

    def check_write(self, at: np.ndarray, size: int, who: Accessors) -> None:
        """No other access may be under way where something is to be stored."""
        cells = self._cells(at, size)
        keys = np.broadcast_to(who.keys[:, None], cells.shape)
        writer = self._writer[cells]
        foreign = self._others(writer, keys, who)
        if foreign.any():
            _raise_unordered("writes what", writer, foreign, who, keys, "wrote")
        for reader in (self._reader[cells], self._other_reader[cells]):
            foreign = self._others(reader, keys, who, _WARP_SHIFT)
            if foreign.any():
                _raise_unordered("writes what", reader, foreign, who, keys, "read")

    def note_write(self, at, values, present, who: Accessors) -> None:
        """Notes a store of `values`, of which `present` are there now: others' may be, too."""
        cells = self._cells(at, values.shape[1])
        keys = np.broadcast_to(who.keys[:, None], cells.shape)
        self._writer[cells] = keys
        lost = self._writer[cells] != keys
        if lost.any():
            lost &= (values != present).reshape(*cells.shape, self._grain).any(-1)
        if lost.any():
            raise FaultError("a race: two threads write different values to one place at once")

    def check_atomic(self, at: np.ndarray, size: int, who: Accessors) -> None:
        """As for a store, but that atomics are in nobody's way among themselves."""
        cells = self._cells(at, size)
        keys = np.broadcast_to(who.keys[:, None], cells.shape)
        writer = self._writer[cells]
        foreign = self._others(writer, keys, who)
        foreign &= (writer & ATOMIC) == 0
        _raise_unordered("changes what", writer, foreign, who, keys, "wrote")
        reader = self._reader[cells]
        foreign = self._others(reader, keys, who, _WARP_SHIFT)
        _raise_unordered("changes what", reader, foreign, who, keys, "read")
        self._writer[cells] = keys | ATOMIC


def _raise_unordered(verb, before, foreign, who: Accessors, keys, past) -> None:
    """Raises if an access of a key in `before` isn't ordered before that of `keys`."""
    which = np.nonzero(foreign)
    if not len(which[0]):
        return
    before, keys, since = before[which], keys[which], who.since[which[0]]
    then, now, size = thread_of(before), thread_of(keys), who.threads_of_a_block
    same_warp, same_block = then >> 5 == now >> 5, then // size == now // size
    meetings = np.where(same_warp, time_of(keys), since)
    ordered = same_block & (time_of(before) < meetings)
    if who.order is not None:
        ordered |= who.order.before(then // size, time_of(before), now // size)
    if not ordered.all():
        i = int(np.flatnonzero(~ordered)[0])
        raise FaultError(
            f"a race: thread {now[i] % size} of block {now[i] // size} {verb}"
            f" thread {then[i] % size} of block {then[i] // size} {past}"
        )
