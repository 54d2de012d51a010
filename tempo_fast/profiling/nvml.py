"""Power, energy, clocks, memory and utilisation of a GPU, read through NVML beside the work."""

from __future__ import annotations

import statistics
import threading
from collections import defaultdict
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch

INTERVAL = 0.02  # seconds: NVML itself renews most of its figures about so often


def open_nvml() -> ModuleType | str:
    """The module pynvml, ready; or why there is none here."""
    try:
        import pynvml
    except ImportError:
        return "nvidia-ml-py isn't installed: pip install 'tempo-fast[profile]'"
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return f"NVML can't be used here: {error}"
    return pynvml


class GpuSampler:
    """Reads a GPU in a thread of its own while a `with` block runs; `summary` is for afterwards.

    nvml: pynvml, initialised. device: the CUDA device. interval: seconds between two readings.
    A figure that this GPU doesn't offer is None in the summary. Of a MIG instance NVML has the
    memory only: power, energy and clocks are then those of the whole GPU, and the summary says so.
    """

    def __init__(self, nvml: ModuleType, device: torch.device, interval: float = INTERVAL) -> None:
        self._nvml = nvml
        self._handle, self._whole, self._mig = _handles(nvml, device)
        self._interval = interval
        self._readings: dict[str, list[float]] = defaultdict(list)
        self._energy: list[float | None] = []
        self._error: Exception | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="tempo-fast-nvml", daemon=True)

    def __enter__(self) -> GpuSampler:
        self._energy = [self._read(self._millijoules)]
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        self._thread.join()
        if self._error is not None and exception[0] is None:
            raise self._error
        self._energy.append(self._read(self._millijoules))

    def _sample(self) -> None:
        try:
            while True:
                for name, value in self._once().items():
                    if value is not None:
                        self._readings[name].append(value)
                if self._over.wait(self._interval):
                    return
        except Exception as error:  # raised where the work is waited for, in `__exit__`
            self._error = error

    def _once(self) -> dict[str, float | None]:
        nvml, handle, whole = self._nvml, self._handle, self._whole
        utilisation = self._read(lambda: nvml.nvmlDeviceGetUtilizationRates(handle))
        return {
            "power_w": self._read(lambda: nvml.nvmlDeviceGetPowerUsage(whole) / 1e3),
            "sm_clock_mhz": self._clock("NVML_CLOCK_SM"),
            "memory_clock_mhz": self._clock("NVML_CLOCK_MEM"),
            "memory_used_bytes": self._read(lambda: nvml.nvmlDeviceGetMemoryInfo(handle).used),
            "utilisation_percent": None if utilisation is None else utilisation.gpu,
            "memory_utilisation_percent": None if utilisation is None else utilisation.memory,
        }

    def _clock(self, kind: str) -> float | None:
        nvml = self._nvml
        return self._read(lambda: nvml.nvmlDeviceGetClockInfo(self._whole, getattr(nvml, kind)))

    def _millijoules(self) -> float:
        return self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._whole)

    def _read(self, read: Callable[[], Any]) -> Any:
        nvml = self._nvml
        try:
            return read()
        except (nvml.NVMLError_NotSupported, nvml.NVMLError_NoPermission):
            return None  # a container with an instance of MIG may not ask for the whole GPU's

    def summary(self) -> dict:
        """{"samples", "mig", "energy_j", NAME: {"mean", "max", "min"}, …}; None for what isn't
        offered. mig: which figures are those of more than the device; None without MIG."""
        begin, end = self._energy
        names = ("power_w", "sm_clock_mhz", "memory_clock_mhz", "memory_used_bytes")
        names += ("utilisation_percent", "memory_utilisation_percent")
        return {
            "samples": max(map(len, self._readings.values()), default=0),
            "mig": self._mig,
            "energy_j": None if begin is None or end is None else (end - begin) / 1e3,
            **{name: _spread(self._readings.get(name)) for name in names},
        }


def _spread(values: list[float] | None) -> dict[str, float] | None:
    if not values:
        return None
    return {"mean": statistics.fmean(values), "max": max(values), "min": min(values)}


def _handles(nvml: ModuleType, device: torch.device) -> tuple[Any, Any, str | None]:
    """NVML's handles of the device and of the whole GPU, and what to say of MIG.

    Raises NVMLError where NVML doesn't know the device.
    """
    # By its UUID: CUDA_VISIBLE_DEVICES renumbers torch's devices and not NVML's.
    uuid = str(torch.cuda.get_device_properties(device).uuid)
    bare = uuid.removeprefix("GPU-").removeprefix("MIG-")
    if not uuid.startswith("MIG-"):
        try:
            whole = nvml.nvmlDeviceGetHandleByUUID(f"GPU-{bare}")
        except nvml.NVMLError_NotFound:
            if uuid.startswith("GPU-"):
                raise
            # torch writes a MIG instance's UUID without the letters that tell it from a GPU's.
        else:
            return whole, whole, _all_of(nvml, whole)
    part = nvml.nvmlDeviceGetHandleByUUID(f"MIG-{bare}")
    whole = nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(part)
    return part, whole, "a MIG instance: power, energy and clocks are those of its whole GPU"


def _all_of(nvml: ModuleType, whole: Any) -> str | None:
    try:
        current, _ = nvml.nvmlDeviceGetMigMode(whole)
    except nvml.NVMLError_NotSupported:
        return None
    # CUDA works on an instance then, and has named the GPU that it is part of.
    return "a MIG instance: all figures are those of its whole GPU" if current else None
