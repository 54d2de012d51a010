"""Threads that work on neighbouring chunks beside each other, each on its share of the cores.

On a CPU the operations of one chunk keep several cores less busy than chunks of their own do: many
are small, and after each the cores wait for one another.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

from tempo_fast.threads import torch_in_threads, usable_cores

# Each holds the activations of a chunk; with more cores, a chunk takes several.
MOST = 4

T = TypeVar("T")
_thread = threading.local()


class _LeftError(Exception):
    """Ends a thread's work; the thread that asked for it has gone on."""


def crew_size(device: torch.device) -> int:
    """Chunks that are worked on at once by threads; fewer where torch was told to use few."""
    if device.type != "cpu":
        return 1
    return min(MOST, usable_cores(), torch.get_num_threads())


def keep_on() -> None:
    """What takes long calls it in between: it ends work that nobody waits for any more."""
    left = getattr(_thread, "left", None)
    if left is not None and left.is_set():
        raise _LeftError


class Crew:
    """`size` threads. As a context: leaving it ends what they are doing, and them.

    size 1: no thread, work is done where it is begun.
    """

    def __init__(self, size: int) -> None:
        # One that waits, so that nobody waits for the work to be handed out.
        self.ahead = size + 1 if size > 1 else 1
        self._pool = None
        if size > 1:
            self._left = threading.Event()
            share = max(1, torch.get_num_threads() // size)
            self._pool = ThreadPoolExecutor(size, "tempo-fast-chunk", self._join, (share,))

    def _join(self, share: int) -> None:
        torch_in_threads(share)
        _thread.left = self._left

    def begin(self, work: Callable[..., T], *args: object) -> Future[T]:
        """Start work(*args) when its turn comes, in the modes of the calling thread."""
        if self._pool is None:
            future = Future()
            try:
                future.set_result(work(*args))
            except Exception as error:
                future.set_exception(error)
            return future
        inference, learning = torch.is_inference_mode_enabled(), torch.is_grad_enabled()

        def in_modes() -> T:
            with torch.inference_mode(inference), torch.set_grad_enabled(learning):
                return work(*args)

        return self._pool.submit(in_modes)

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._pool is not None:
            self._left.set()
            self._pool.shutdown(wait=True, cancel_futures=True)
