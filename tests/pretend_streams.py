"""Streams, events and graphs of a pretended device, and what a race between streams would be.

Everything runs when it is called, in the order of the calls. What is checked is whether a device,
which promises no more than the order within each stream and behind each wait, would have had to.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._pytree import tree_leaves


class RefusedError(RuntimeError):
    """What a GPU would have refused, or done wrong."""


class Stream:
    """seen: how much of each stream's work, its own too, is before what comes next on this one."""

    def __init__(self, device: Any = None, priority: int = 0) -> None:
        self.device = torch.device("cuda", 0)
        self.seen: dict[Stream, int] = {self: 0}

    def wait_event(self, event: Event) -> None:
        for stream, tick in event.seen.items():
            self.seen[stream] = max(self.seen.get(stream, 0), tick)

    def wait_stream(self, other: Stream) -> None:
        self.wait_event(other.record_event())

    def record_event(self) -> Event:
        event = Event()
        event.record(self)
        return event

    def synchronize(self) -> None:
        Event.device.blocks("a stream's synchronize")


class Event:
    """A mark behind a stream's work. device: the pretended one, while there is one."""

    device: Any = None

    def __init__(self, enable_timing: bool = False) -> None:
        self.seen: dict[Stream, int] = {}

    def record(self, stream: Stream | None = None) -> None:
        self.seen = dict((stream or self.device.stream).seen)

    def synchronize(self) -> None:
        self.device.blocks("an event's synchronize")
        self.device.memory.wait(self)

    def elapsed_time(self, end: Event) -> float:
        return 1.0


class Memory:
    """Who made, wrote and read which memory, and when. Refuses what nothing orders.

    Memory is told apart as a whole: two halves of a tensor are one.
    """

    def __init__(self) -> None:
        self._made: dict[int, tuple[Stream, StorageWeakRef]] = {}
        self._written: dict[int, tuple[Stream, int]] = {}
        self._read: dict[int, dict[Stream, int]] = {}
        self._held: dict[int, set[Stream]] = {}
        self._waited: dict[Stream, int] = {}

    def wait(self, event: Event) -> None:
        """The host waits, and with it all that it gives any stream from now on."""
        for stream, tick in event.seen.items():
            self._waited[stream] = max(self._waited.get(stream, 0), tick)

    def make(self, tensor: torch.Tensor, stream: Stream) -> None:
        self._check_freed()
        place = address(tensor)
        if place in self._made:  # by an earlier replay
            return self.write(tensor, stream)
        self._read.pop(place, None)
        stream.seen[stream] += 1
        self._made[place] = stream, StorageWeakRef(tensor.untyped_storage())
        self._written[place] = stream, stream.seen[stream]

    def read(self, tensor: torch.Tensor, stream: Stream) -> None:
        place = address(tensor)
        if place in self._written:
            self._check_behind(stream, *self._written[place], "reads what another one writes")
        stream.seen[stream] += 1
        self._read.setdefault(place, {})[stream] = stream.seen[stream]

    def write(self, tensor: torch.Tensor, stream: Stream) -> None:
        place = address(tensor)
        if place in self._written:
            self._check_behind(stream, *self._written[place], "writes what another one writes")
        for reader, tick in self._read.pop(place, {}).items():
            self._check_behind(stream, reader, tick, "writes what another one reads")
        stream.seen[stream] += 1
        self._written[place] = stream, stream.seen[stream]

    def take(self, tensor: torch.Tensor) -> None:
        """The host has new memory where the device may have had some."""
        self._check_freed()
        self._written.pop(address(tensor), None)
        self._read.pop(address(tensor), None)

    def hold(self, tensor: torch.Tensor, stream: Stream) -> None:
        self._held.setdefault(address(tensor), set()).add(stream)

    def _check_freed(self) -> None:
        """What was freed goes to the stream that made it, whoever still reads it."""
        for place in [place for place, (_, kept) in self._made.items() if kept.expired()]:
            maker, _ = self._made.pop(place)
            held = self._held.pop(place, ())
            users = [*self._read.pop(place, {}).items(), self._written.pop(place)]
            for user, tick in users:
                if user not in held:
                    self._check_behind(maker, user, tick, "may reuse what another one uses")

    def _check_behind(self, stream: Stream, other: Stream, tick: int, what: str) -> None:
        if max(stream.seen.get(other, -1), self._waited.get(other, -1)) < tick:
            raise RefusedError(f"a stream {what}, without having waited for it")


class Graph:
    """A recording: operations, what came out of each, what it reads, and what of that it writes."""

    def __init__(self) -> None:
        self.calls: list[tuple[Callable[[], Any], Any, list, list]] = []
        self.undo: list[tuple[torch.Tensor, torch.Tensor]] = []

    def replay(self) -> None:
        """Do it all again, into the tensors that came out of the recording."""
        device = Event.device
        for run, made, tensors, written in self.calls:
            with torch._C.DisableTorchFunction():
                for old, new in zip(tree_leaves(made), tree_leaves(run()), strict=True):
                    if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                        old.copy_(new)
            device.touch(tensors, written, tensors_of(made))
        device.replays += 1

    def forget(self) -> None:
        """Put back what the recording changed: on a device nothing of it has run yet."""
        with torch._C.DisableTorchFunction():
            while self.undo:
                tensor, before = self.undo.pop()
                tensor.copy_(before)


def address(tensor: torch.Tensor) -> int:
    """Where a tensor's memory begins."""
    with torch._C.DisableTorchFunction():
        return tensor.untyped_storage().data_ptr()


def tensors_of(tree: Any) -> list[torch.Tensor]:
    """The tensors in a nest of containers."""
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]
