"""Seconds by stage, and the stages' names in a profiler's trace."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from time import perf_counter

import torch

from tempo_fast.answer import STAGES

_NO_REGION = nullcontext()
_naming = False


class Clock:
    """Adds up the seconds that each stage takes, the device's work included.

    Of threads that work beside each other it adds up the seconds of each. On CUDA a stage waits at
    its end for the current stream: stages are long and few.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._adding = threading.Lock()
        self.seconds = dict.fromkeys(STAGES, 0.0)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        begin = perf_counter()
        try:
            with _region(stage, self._device) if _naming else _NO_REGION:
                yield
                if self._device.type == "cuda":
                    torch.cuda.current_stream(self._device).synchronize()
        finally:
            self.add(stage, perf_counter() - begin)

    def add(self, stage: str, seconds: float) -> None:
        """Count seconds that were measured elsewhere."""
        with self._adding:
            self.seconds[stage] += seconds


@contextmanager
def named_stages() -> Iterator[None]:
    """Within it, every clock's stages are regions `stage: NAME` of torch's profiler and, on CUDA,
    NVTX ranges."""
    global _naming
    before, _naming = _naming, True
    try:
        yield
    finally:
        _naming = before


@contextmanager
def _region(stage: str, device: torch.device) -> Iterator[None]:
    name = f"stage: {stage}"
    with ExitStack() as stack:
        stack.enter_context(torch.profiler.record_function(name))
        if device.type == "cuda":
            stack.enter_context(torch.cuda.nvtx.range(name))
        yield
