"""Work of neighbouring chunks on streams beside each other, ordered by events: the interface.

A lane is a queue of device work. Whoever uses what another lane makes waits for a mark behind it,
and holds it, so that its memory isn't given to somebody else while it is still being read.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from tempo_fast.engine.clock import Clock

# The lanes, and the stage that the time spent on each is counted under.
LANES = {"copy": "vision", "vision": "vision", "compress": "compress"}
# Chunks that may be queued at once: one on each of the two networks.
IN_FLIGHT = 2


class Lanes(ABC):
    """The lanes of one video's encoding; `with lanes:` begins after the current stream's work, and
    the current stream goes on after theirs."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    @abstractmethod
    def on(self, lane: str) -> Any:
        """A context in which device work is queued on a lane, in the order of the calls."""

    @abstractmethod
    def send(self, tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
        """A host's tensor on the device, by the current lane."""

    @abstractmethod
    def mark(self) -> Any:
        """A mark behind the current lane's work."""

    @abstractmethod
    def use(self, mark: Any, *tensors: torch.Tensor) -> None:
        """The current lane waits for the mark and holds the tensors that were made before it."""

    @abstractmethod
    def end_chunk(self) -> None:
        """A chunk ends with the current lane's work; wait while too many are in flight."""

    def __enter__(self) -> Lanes:
        return self

    @abstractmethod
    def __exit__(self, *exception: object) -> None:
        """Order what comes next behind all lanes."""


class OneLane(Lanes):
    """All on the current stream, a stage at a time: the plain path."""

    def on(self, lane: str) -> Any:
        return self.clock(LANES[lane])

    def send(self, tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
        return tensor.to(device)

    def mark(self) -> None:
        return None

    def use(self, mark: None, *tensors: torch.Tensor) -> None:
        """The one stream is in order already."""

    def end_chunk(self) -> None:
        """The clock has waited for it."""

    def __exit__(self, *exception: object) -> None:
        """It is in order already."""


class CudaLanes(Lanes):
    """A CUDA stream a lane. Nothing waits for the device but `end_chunk` and the end."""

    def __init__(self, clock: Clock, streams: dict[str, torch.cuda.Stream]) -> None:
        super().__init__(clock)
        self._streams = streams
        self._ends: deque[torch.cuda.Event] = deque()
        self._timed: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def on(self, lane: str) -> Iterator[None]:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self._begin = begin
        with torch.cuda.stream(self._streams[lane]):
            begin.record()
            yield
            end.record()
        self._timed.append((LANES[lane], begin, end))

    def send(self, tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
        return upload(tensor, device)

    def mark(self) -> torch.cuda.Event:
        return torch.cuda.current_stream().record_event()

    def use(self, mark: torch.cuda.Event, *tensors: torch.Tensor) -> None:
        stream = torch.cuda.current_stream()
        stream.wait_event(mark)
        for tensor in tensors:
            tensor.record_stream(stream)
        self._begin.record()  # what it waited for counts where it was done

    def end_chunk(self) -> None:
        self._ends.append(self.mark())
        while len(self._ends) >= IN_FLIGHT:
            self._ends.popleft().synchronize()

    def __enter__(self) -> CudaLanes:
        for stream in self._streams.values():
            stream.wait_stream(torch.cuda.current_stream(stream.device))
        return self

    def __exit__(self, *exception: object) -> None:
        for stream in self._streams.values():
            torch.cuda.current_stream(stream.device).wait_stream(stream)
            stream.synchronize()
        for stage, begin, end in self._timed:
            self.clock.add(stage, begin.elapsed_time(end) / 1000)


def upload(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A host's tensor on the device, without making the host wait for what is queued there."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


class Turns:
    """`with turns:` for buffers that serve one thread at a time, and one stream at a time."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._lock = threading.Lock()
        self._last: torch.cuda.Event | None = None

    def __enter__(self) -> None:
        self._lock.acquire()
        if self._last is not None:
            torch.cuda.current_stream(self._device).wait_event(self._last)

    def wait(self) -> None:
        """Within a turn, before buffers are given up: the host waits for the turns before it. What
        they leave goes to the stream that made it, whichever used it last."""
        if self._last is not None:
            self._last.synchronize()

    def __exit__(self, *exception: object) -> None:
        if self._device.type == "cuda":
            self._last = torch.cuda.current_stream(self._device).record_event()
        self._lock.release()


class LaneMaker:
    """Lanes for each encoding on a device, always of the same streams."""

    def __init__(self, device: torch.device, streams: bool) -> None:
        self._streams = None
        if streams and device.type == "cuda":
            self._streams = {lane: torch.cuda.Stream(device) for lane in LANES}

    @property
    def in_flight(self) -> int:
        """Chunks whose memory is in use at once."""
        return 1 if self._streams is None else IN_FLIGHT

    def __call__(self, clock: Clock) -> Lanes:
        return OneLane(clock) if self._streams is None else CudaLanes(clock, self._streams)
