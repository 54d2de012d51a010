"""How many threads work on a video, and that each of them is only one."""

from __future__ import annotations

import os
import threading

import torch

_SETTING = threading.Lock()


def usable_cores() -> int:
    """CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def torch_in_one_thread() -> None:
    """Keep torch's CPU operations that this thread calls from starting threads of their own.

    Several threads that each wait for a team of others on the same cores are slower than one.
    `torch.set_num_threads` holds for the calling thread and for those that come to torch later;
    setting the old number again from a thread that ends leaves it to this one alone.
    """
    with _SETTING:
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        restoring = threading.Thread(
            target=torch.set_num_threads, args=(before,), name="tempo-fast-restoring"
        )
        restoring.start()
        restoring.join()
