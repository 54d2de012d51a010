"""Threads that work on neighbouring chunks beside each other, each on its share of the cores.

On a CPU the operations of one chunk keep several cores less busy than chunks of their own do: many
are small, and after each the cores wait for one another.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from typing import TypeVar

import torch

from tempo_fast.threads import torch_in_threads, usable_cores

# Each holds the activations of a chunk; where there are more cores, a chunk takes several.
MOST = 4

T = TypeVar("T")
_thread = threading.local()
_making = threading.Lock()
_pools: dict[tuple[int, int], ThreadPoolExecutor] = {}
if hasattr(os, "register_at_fork"):  # a child process has none of the threads
    os.register_at_fork(after_in_child=_pools.clear)


class _LeftError(Exception):
    """Ends a thread's work; the thread that asked for it has gone on."""


def crew_size(device: torch.device) -> int:
    """Chunks that are worked on at once by threads; fewer where torch was told to use few."""
    if device.type != "cpu":
        return 1
    cores = min(usable_cores(), torch.get_num_threads())
    # As few cores as possible stay idle, and then as many chunks as possible run.
    sizes = range(min(2, MOST, cores), min(MOST, cores) + 1)
    return max(sizes, key=lambda size: (cores // size * size, size))


def crew_has_all_cores(device: torch.device) -> bool:
    """Whether a crew's threads have one core each, and none is left to anybody else."""
    return 1 < crew_size(device) == usable_cores()


def keep_on() -> None:
    """What takes long calls it in between: it ends work that nobody waits for any more."""
    left = getattr(_thread, "left", None)
    if left is not None and left.is_set():
        raise _LeftError


def _pool(size: int) -> ThreadPoolExecutor:
    """Threads that stay: torch's number of threads is set for the whole process for a moment."""
    share = max(1, torch.get_num_threads() // size)
    with _making:
        if (size, share) not in _pools:
            _pools[size, share] = ThreadPoolExecutor(size, "tempo-crew", torch_in_threads, (share,))
        return _pools[size, share]


class Crew:
    """`size` threads. As a context: leaving it ends what they are doing for it.

    size 1: no thread, work is done where its result is asked for.
    """

    def __init__(self, size: int) -> None:
        # One that waits, so that nobody waits for the work to be handed out.
        self.ahead = size + 1 if size > 1 else 1
        self._pool = _pool(size) if size > 1 else None
        self._left = threading.Event()
        self._begun: list[Future] = []

    def begin(self, work: Callable[..., T], *args: object) -> Callable[[], T]:
        """Start work(*args) when its turn comes, in the modes of the calling thread.

        Returns what waits for it to end and returns or raises what it did.
        """
        if self._pool is None:
            return partial(work, *args)
        inference, learning = torch.is_inference_mode_enabled(), torch.is_grad_enabled()

        def in_modes() -> T:
            _thread.left = self._left
            try:
                keep_on()
                with torch.inference_mode(inference), torch.set_grad_enabled(learning):
                    return work(*args)
            finally:
                _thread.left = None

        future = self._pool.submit(in_modes)
        self._begun = [earlier for earlier in self._begun if not earlier.done()]
        self._begun.append(future)
        return future.result

    def settle(self) -> None:
        """Wait until nothing that was begun is being worked on."""
        wait(self._begun)
        self._begun.clear()

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *exception: object) -> None:
        self._left.set()
        for future in self._begun:
            future.cancel()
        self.settle()
