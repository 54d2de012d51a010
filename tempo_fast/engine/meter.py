"""How much memory is free, and what to do when there was too little."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

import torch

from tempo_fast.engine.graphs import recording

MEMINFO = Path("/proc/meminfo")
# The name of torch's pool of memory for everything but graphs, which have pools of their own.
COMMON_POOL = (0, 0)


class Meter(ABC):
    """Free memory in bytes; None where the system doesn't say."""

    @abstractmethod
    def free(self) -> int | None:
        """Where the model runs."""

    def host_free(self) -> int | None:
        """In the host, for a device with memory of its own; None where it is the host's."""
        return None

    @property
    def separate(self) -> bool:
        """Whether the device has memory of its own, so that the host's can take what it can't."""
        return False

    @abstractmethod
    def release(self) -> None:
        """Give memory that nothing uses any more back, after an allocation that failed."""


class HostMeter(Meter):
    """The host's memory, as Linux estimates it (MemAvailable)."""

    def free(self) -> int | None:
        if not MEMINFO.exists():
            return None
        lines = MEMINFO.read_text().splitlines()
        (line,) = (line for line in lines if line.startswith("MemAvailable:"))
        return int(line.split()[1]) * 1024

    def release(self) -> None:
        """Nothing is held back."""


class CudaMeter(Meter):
    """A GPU's memory: what the driver has left and what torch's allocator holds unused.

    What it holds for captured graphs is not free, used or not: only their replays write there.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._host = HostMeter()

    def free(self) -> int:
        left = torch.cuda.mem_get_info(self._device)[0]
        return left + self._unused()

    def _unused(self) -> int:
        device = self._device
        if torch.cuda.get_allocator_backend() != "native":  # which alone tells its pools apart
            return torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        index = torch.cuda.current_device() if device.index is None else device.index
        return sum(
            segment["total_size"] - segment["allocated_size"]
            for segment in torch.cuda.memory_snapshot()
            if segment["device"] == index and tuple(segment["segment_pool_id"]) == COMMON_POOL
        )

    def host_free(self) -> int | None:
        return self._host.free()

    @property
    def separate(self) -> bool:
        return True

    def release(self) -> None:
        # Work that was queued before the failure still holds its tensors.
        with recording:
            torch.cuda.synchronize(self._device)
            torch.cuda.empty_cache()
            # Pinned memory that was given up stays pinned else; torch 2.11 has no call for it.
            getattr(torch.accelerator, "empty_host_cache", lambda: None)()


def meter_of(device: torch.device) -> Meter:
    """The meter of a device."""
    return CudaMeter(device) if device.type == "cuda" else HostMeter()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on the device or on the host."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    # The CPU's allocator, pinned memory, Triton and cuBLAS have no exception of their own.
    words = ("can't allocate memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)
