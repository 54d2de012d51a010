"""The bytes that threads may access: tensors, tables, a block's shared memory, a thread's own.

An access has to be a multiple of its size away from address 0, and inside of one region. Tensors
have their real addresses.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Iterator

import numpy as np

from .program import FaultError
from .races import Shadow

__all__ = ["Global", "Local", "Region", "Shared"]

# Regions' arrays begin at multiples of it, so that aligned addresses are aligned indices.
_ALIGNMENT = 64


class Region:
    """Bytes from address `start` to `end`; those around them belong to nobody.

    shadow: who has accessed them in this launch; None for what it only reads.
    """

    def __init__(self, start: int, size: int) -> None:
        self.start, self.end = start, start + size
        self.base = start - start % _ALIGNMENT
        length = -(-(self.end - self.base) // _ALIGNMENT) * _ALIGNMENT
        self._bytes = np.frombuffer((ctypes.c_uint8 * length).from_address(self.base), np.uint8)
        self._views: dict[tuple[int, int], np.ndarray] = {}
        self.shadow: Shadow | None = None

    def words(self, size: int, count: int) -> np.ndarray:
        """All of it as rows of `count` words of `size` bytes."""
        view = self._views.get((size, count))
        if view is None:
            view = self._bytes.view(f"u{size}").reshape(-1, count)
            self._views[size, count] = view
        return view

    def track(self, *, of_one_block: bool = False) -> None:
        """From now on."""
        self.shadow = Shadow(len(self._bytes), of_one_block)


class Global:
    """The memory that a launch may access.

    spans: (address, size, whether the kernel writes there), which may overlap.
    """

    def __init__(self, spans: Iterable[tuple[int, int, bool]]) -> None:
        merged: list[list] = []
        for start, size, written in sorted(spans):
            if merged and start < merged[-1][1]:
                merged[-1][1] = max(merged[-1][1], start + size)
                merged[-1][2] |= written
            elif size:
                merged.append([start, start + size, written])
        self._regions = [Region(start, end - start) for start, end, _ in merged]
        for region, (_, _, written) in zip(self._regions, merged, strict=True):
            if written:
                region.track()
        self._starts = np.array([region.start for region in self._regions], np.int64)
        self._ends = np.array([region.end for region in self._regions], np.int64)

    def locate(self, address: np.ndarray, size: int) -> Iterator[tuple[Region, object, np.ndarray]]:
        """(region, which of the accesses are there, their distance from its base)."""
        _check_aligned(address, size)
        found = np.searchsorted(self._starts, address, "right") - 1
        inside = found >= 0
        if len(self._ends):
            inside &= address + size <= self._ends[found]
        if not inside.all():
            lost = int(address[~inside][0])
            edges = np.concatenate([self._starts, self._ends])
            distance = int(np.abs(edges - lost).min()) if len(edges) else "infinitely many"
            raise FaultError(f"{size} bytes out of every tensor, {distance} from the nearest end")
        if (found == found[0]).all():
            region = self._regions[found[0]]
            yield region, slice(None), address - region.base
            return
        for index in np.unique(found):
            chosen, region = np.flatnonzero(found == index), self._regions[index]
            yield region, chosen, address[chosen] - region.base


class Shared(Region):
    """The shared memory of several blocks, one behind the other, filled with nonsense."""

    def __init__(self, size: int, blocks: int) -> None:
        self.size = size
        self._stride = -(-max(size, 1) // _ALIGNMENT) * _ALIGNMENT
        self._bytes = np.full(self._stride * blocks, 0xA5, np.uint8)
        self._views = {}
        self.track(of_one_block=True)

    def locate(self, address: np.ndarray, size: int, block: np.ndarray) -> np.ndarray:
        """Where the accesses of threads of these blocks are."""
        _check_aligned(address, size)
        if address.min() < 0 or address.max() + size > self.size:
            raise FaultError(f"{size} bytes beyond the {self.size} of shared memory")
        return address + block * self._stride


class Local:
    """What each thread has for itself: [threads, bytes], filled with nonsense."""

    def __init__(self, threads: int, size: int) -> None:
        self._size = size
        shape = (threads, -(-size // 8) * 8)
        self._bytes = np.full(shape, 0xA5, np.uint8)
        self._written = np.zeros(shape, bool)

    def load(self, thread: np.ndarray, address: np.ndarray, size: int, count: int) -> np.ndarray:
        where = self._where(thread, address, size * count)
        if not self._written[where].all():
            raise FaultError("a thread reads what it never wrote to its local memory")
        return np.ascontiguousarray(self._bytes[where]).view(f"u{size}")

    def store(self, thread: np.ndarray, address: np.ndarray, values: np.ndarray) -> None:
        size = values.shape[1] * values.itemsize
        where = self._where(thread, address, size)
        self._bytes[where] = np.ascontiguousarray(values).view(np.uint8)
        self._written[where] = True

    def _where(self, thread, address, size):
        _check_aligned(address, size)
        if address.min() < 0 or address.max() + size > self._size:
            raise FaultError(f"{size} bytes beyond the {self._size} of local memory")
        return thread[:, None], address[:, None] + np.arange(size)


def _check_aligned(address: np.ndarray, size: int) -> None:
    if (address & (size - 1)).any():
        raise FaultError(f"{size} bytes at an address that is no multiple of {size}")
