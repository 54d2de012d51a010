"""What this machine reaches at best: the two rates that floors are counted with."""

from __future__ import annotations

import statistics
import time
from dataclasses import asdict, dataclass

import torch

from .device_timing import ColdCache, DeviceMoment, copy_bandwidth

SIDE = {"cuda": 8192, "cpu": 1024}
HOST_COPY_BYTES = 1 << 28
ROUNDS = 10


@dataclass(frozen=True)
class Ceilings:
    """flops: operations a second of a large matrix product on random numbers of `dtype`.
    bandwidth: bytes a second, read and written, of a large copy."""

    flops: float
    bandwidth: float
    dtype: str

    def as_row(self) -> dict:
        return asdict(self)


def measure_ceilings(device: torch.device, dtype: torch.dtype) -> Ceilings:
    """Measure both here and now, with as many threads as torch has."""
    bandwidth = copy_bandwidth(ColdCache()) if device.type == "cuda" else _host_bandwidth()
    name = str(dtype).removeprefix("torch.")
    return Ceilings(_matmul_flops(device, dtype), bandwidth, name)


def _matmul_flops(device: torch.device, dtype: torch.dtype) -> float:
    side = SIDE[device.type]
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    out = a @ b
    seconds = []
    for _ in range(ROUNDS):
        if device.type == "cuda":
            begin = DeviceMoment()
            torch.matmul(a, b, out=out)
            seconds.append(DeviceMoment() - begin)
        else:
            begin = time.perf_counter()
            torch.matmul(a, b, out=out)
            seconds.append(time.perf_counter() - begin)
    return 2 * side**3 / statistics.median(seconds)


def _host_bandwidth() -> float:
    source = torch.randint(256, (HOST_COPY_BYTES,), dtype=torch.uint8)
    target = torch.empty_like(source)
    seconds = []
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        target.copy_(source)
        seconds.append(time.perf_counter() - begin)
    return 2 * HOST_COPY_BYTES / statistics.median(seconds[1:])
