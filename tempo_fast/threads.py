"""How many threads work at once, and on how many cores each of them."""

from __future__ import annotations

import math
import os
import threading
from functools import cache
from pathlib import Path

import torch

_SETTING = threading.Lock()
_CPU_MAX = Path("/sys/fs/cgroup/cpu.max")
# Just less than the largest block by which glibc sets its limits.
_LARGE = 31 << 20


def usable_cores() -> int:
    """CPU cores that this process may use; a container's share of them is rounded up."""
    affine = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if affine else os.cpu_count() or 1
    return max(1, math.ceil(min(cores, _share(_CPU_MAX))))


def _share(limit: Path) -> float:
    """The cores that a control group of Linux (version 2) may use at once: quota by period."""
    try:
        quota, period = limit.read_text().split()
        return int(quota) / int(period)
    except (OSError, ValueError):  # no such file, or "max"
        return math.inf


def torch_in_one_thread() -> None:
    """Keep torch's CPU operations that this thread calls from starting threads of their own.

    Several threads that each wait for a team of others on the same cores are slower than one.
    """
    torch_in_threads(1)


def torch_in_threads(count: int) -> None:
    """Let torch's CPU operations that this thread calls run in `count` threads.

    `torch.set_num_threads` holds for the calling thread and for those that come to torch later;
    setting the old number again from a thread that ends leaves it to this one alone.
    """
    with _SETTING:
        before = torch.get_num_threads()
        torch.set_num_threads(count)
        restoring = threading.Thread(
            target=torch.set_num_threads, args=(before,), name="tempo-fast-restoring"
        )
        restoring.start()
        restoring.join()


@cache
def keep_freed_memory() -> None:
    """Let threads that take and free some MB over and over keep them.

    glibc gives the system back what is free at the end of a heap beyond twice the largest block
    that it has seen freed, and takes it anew, page by page, for the next operation, which costs
    more than the operation. It sees a large one here; no page of it is ever touched. (Elsewhere
    this does nothing.)
    """
    torch.empty(_LARGE, dtype=torch.uint8, device="cpu")
