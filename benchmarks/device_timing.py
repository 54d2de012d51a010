"""Times one call on a GPU: CUDA events, a cold L2 cache, no launch gaps inside."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

COPY_BYTES = 1 << 30


class DeviceMoment:
    """A moment in the GPU's stream; the difference of two is in seconds.

    As pytest-benchmark's timer: taking a moment doesn't wait, so that the host runs ahead and the
    GPU finds its next work queued.
    """

    def __init__(self) -> None:
        self.event = torch.cuda.Event(enable_timing=True)
        self.event.record()

    def __sub__(self, earlier: DeviceMoment) -> float:
        self.event.synchronize()
        return earlier.event.elapsed_time(self.event) / 1e3


class ColdCache:
    """Evicts what a kernel may find in the L2 cache, by reading more than four times its size.

    Reading, because lines that were written would be written back on the kernel's time.
    """

    def __init__(self) -> None:
        size = torch.cuda.get_device_properties(0).L2_cache_size
        self._buffer = torch.zeros(max(size, 1 << 26), dtype=torch.float32, device="cuda")

    def __call__(self) -> None:
        self._buffer.sum()


def replayable(call: Callable[[], object]) -> tuple[Callable[[], object], bool]:
    """`call` as a CUDA graph's replay and True; itself and False if it waits for the GPU within."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):  # compiles, fills caches
            call()
    torch.cuda.current_stream().wait_stream(stream)
    if _waits(call):
        return call, False
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay, True


def _waits(call: Callable[[], object]) -> bool:
    """Whether `call` makes the host wait for the GPU, which no graph can hold."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        call()
    except RuntimeError as error:
        if "synchronizing" not in str(error):
            raise
        return True
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return False


def copy_bandwidth(flush: Callable[[], None]) -> float:
    """Bytes read and written a second by a copy of 1 GiB: the ceiling of a memory-bound kernel."""
    source = torch.empty(COPY_BYTES, dtype=torch.uint8, device="cuda").random_()
    target = torch.empty_like(source)
    seconds = []
    for _ in range(20):
        flush()
        start = DeviceMoment()
        target.copy_(source)
        seconds.append(DeviceMoment() - start)
    return 2 * COPY_BYTES / statistics.median(seconds)


def host_seconds(call: Callable[[], object], rounds: int = 20) -> float:
    """Median wall time of a plain call until its result is there, launches included."""
    seconds = []
    for _ in range(rounds):
        torch.cuda.synchronize()
        start = time.perf_counter()
        call()
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)
