"""Work on persistent buffers that is recorded once and replayed: CUDA graphs behind an interface.

What is recorded takes everything from tensors that stay where they are and leaves its results in
such tensors, so that a replay needs no arguments.
"""

from __future__ import annotations

import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch

# Kernels are compiled and libraries take their workspaces before a recording.
WARM_UPS = 2
# torch's of one priority.
STREAMS = 32
# Held while something is recorded: to wait for the whole device then, from any thread, breaks it.
recording = threading.Lock()


@torch.inference_mode(False)  # else they could be written to in that mode alone
def buffer(*shape: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Zeros that stay where they are, for recorded work to read or write."""
    return torch.zeros(shape, dtype=dtype, device=device)


class Graphs(ABC):
    """Records work for one user: its replays must not run beside each other."""

    @abstractmethod
    def capture(self, run: Callable[[], None], reset: Callable[[], None]) -> Callable[[], None]:
        """Record `run`; what is returned does it once more, on the current stream.

        `run` is first run for real, WARM_UPS times, with `reset` before each, which puts the
        buffers into a state that it can run in; `reset` is also called at the end.
        """


class EagerGraphs(Graphs):
    """Records nothing: a replay is another run. For devices without graphs, and for tests."""

    def capture(self, run: Callable[[], None], reset: Callable[[], None]) -> Callable[[], None]:
        for _ in range(WARM_UPS):
            reset()
            run()
        reset()
        return run


class RecordingStreams:
    """A device's streams to record on, each for one living graph in the whole process.

    cuBLAS has a workspace a stream. It is baked into a graph, and torch frees it with the first
    graph that was recorded there and goes (pytorch issue 193402). torch hands the streams of a
    priority out in turn; these have another than the lanes', so that they are none of those.
    """

    def __init__(self) -> None:
        self._made = 0
        self._idle: list[torch.cuda.Stream] = []
        self._lock = threading.Lock()

    def take(self) -> torch.cuda.Stream | None:
        """A stream of the current device; None while all are in use."""
        with self._lock:
            if self._idle:
                return self._idle.pop()
            if self._made == STREAMS:
                return None
            self._made += 1
            return torch.cuda.Stream(priority=-1)

    def give_back(self, stream: torch.cuda.Stream) -> None:
        """Its graph is gone."""
        self._idle.append(stream)  # without the lock, which a collection may find taken


_streams: dict[int, RecordingStreams] = {}


def streams_of(device: int) -> RecordingStreams:
    """Those of a CUDA device, by its index."""
    return _streams.setdefault(device, RecordingStreams())


class CudaGraphs(Graphs):
    """CUDA graphs on a device, in one pool of memory.

    Each keeps what lives within its replay: torch reuses memory of a pool on one stream only. Where
    no stream is left, nothing is recorded, and a replay is another run.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()

    def capture(self, run: Callable[[], None], reset: Callable[[], None]) -> Callable[[], None]:
        with torch.cuda.device(self._device):
            streams = streams_of(torch.cuda.current_device())
            side = streams.take()
            if side is None:
                return EagerGraphs().capture(run, reset)
            try:
                graph = self._record(side, run, reset)
            except BaseException:  # an interrupt too, or the stream would be gone for good
                streams.give_back(side)
                raise
        reset()
        recorded = _Recorded(graph, run)
        weakref.finalize(recorded, streams.give_back, side).atexit = False
        return recorded

    def _record(
        self, side: torch.cuda.Stream, run: Callable[[], None], reset: Callable[[], None]
    ) -> torch.cuda.CUDAGraph:
        current = torch.cuda.current_stream()
        side.wait_stream(current)
        try:
            with torch.cuda.stream(side):
                for _ in range(WARM_UPS):
                    reset()
                    run()
        finally:
            current.wait_stream(side)  # for what it reads and writes, also where it has failed
        graph = torch.cuda.CUDAGraph()
        # Other threads may go on using the device meanwhile.
        recorder = torch.cuda.graph(
            graph, pool=self._pool, stream=side, capture_error_mode="thread_local"
        )
        with recording, recorder:
            run()
        return graph


class _Recorded:
    """A captured graph. It knows addresses only: `run` keeps the tensors there alive."""

    def __init__(self, graph: torch.cuda.CUDAGraph, run: Callable[[], None]) -> None:
        self._graph = graph
        self._run = run

    def __call__(self) -> None:
        self._graph.replay()


def graphs_for(device: torch.device) -> Graphs:
    """What records on a device."""
    return CudaGraphs(device) if device.type == "cuda" else EagerGraphs()
