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


class CudaGraphs(Graphs):
    """CUDA graphs on a device, which share one pool of memory for what lives within a replay.

    Each living graph has the stream that it was recorded on to itself: cuBLAS has one workspace a
    stream, which is baked into the graph, and torch hands its 32 streams out in turn.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()
        self._streams: list[torch.cuda.Stream] = []  # whose graphs are gone

    def capture(self, run: Callable[[], None], reset: Callable[[], None]) -> Callable[[], None]:
        with torch.cuda.device(self._device):
            current = torch.cuda.current_stream()
            side = self._streams.pop() if self._streams else torch.cuda.Stream()
            side.wait_stream(current)
            with torch.cuda.stream(side):
                for _ in range(WARM_UPS):
                    reset()
                    run()
            graph = torch.cuda.CUDAGraph()
            # Other threads may go on using the device meanwhile.
            recorder = torch.cuda.graph(
                graph, pool=self._pool, stream=side, capture_error_mode="thread_local"
            )
            with recording, recorder:
                run()
            current.wait_stream(side)
        reset()
        recorded = _Recorded(graph, run)
        weakref.finalize(recorded, self._streams.append, side).atexit = False
        return recorded


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
