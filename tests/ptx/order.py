"""What blocks know of each other's accesses, by atomics that release and acquire.

A block's time goes on at its barriers. An atomic releases what its block did before the last of
them, and all that the block itself had acquired; what it acquires holds for its block from the next
barrier on.

Source: NVIDIA's "PTX ISA", section "Memory Consistency Model" (release and acquire patterns).
"""

from __future__ import annotations

import numpy as np

__all__ = ["BlockOrder"]


class BlockOrder:
    """Of each block, up to which time of every other one it comes later."""

    def __init__(self, blocks: int) -> None:
        self._nothing = np.zeros(blocks, np.int64)
        self._known: dict[int, np.ndarray] = {}
        self._acquired: dict[int, np.ndarray] = {}
        self._released: dict[int, np.ndarray] = {}

    def exchange(self, address: int, block: int, since: int) -> None:
        """An acq_rel atomic at an address, by a block whose last barrier was at a time."""
        known = self._acquired.get(block, self._known.get(block, self._nothing))
        released = self._released.get(address, self._nothing)
        self._acquired[block] = np.maximum(known, released)
        released = np.maximum(released, self._known.get(block, self._nothing))
        released[block] = since
        self._released[address] = released

    def meet(self, block: int) -> None:
        """A barrier of a block."""
        if block in self._acquired:
            self._known[block] = self._acquired.pop(block)

    def before(self, block: np.ndarray, time: np.ndarray, later: np.ndarray) -> np.ndarray:
        """Whether accesses of blocks at times come before what blocks `later` do now."""
        pairs = zip(block.tolist(), later.tolist(), strict=True)
        return time < np.array([self._known.get(b, self._nothing)[a] for a, b in pairs])
