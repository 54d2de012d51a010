"""Which stretches of a video have to be decoded for the wanted frames."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True)
class Packets:
    """The packets of a stream in decoding order.

    times: int64 [N], their presentation times, all different. entries: int64 [E], numbers of those
    where decoding can begin, rising in time too. decoding_times: int64 [E], theirs.
    """

    times: np.ndarray
    entries: np.ndarray
    decoding_times: np.ndarray

    @cached_property
    def order(self) -> np.ndarray:
        """int64 [N], the packets' numbers in the order in which they are shown."""
        return np.argsort(self.times)

    def number(self, time: int) -> int | None:
        """The packet that is shown at a time, if there is one."""
        place = int(np.searchsorted(self.times, time, sorter=self.order))
        found = int(self.order[place]) if place < len(self.order) else None
        return found if found is not None and self.times[found] == time else None

    def seek_times(self, number: int) -> tuple[int, ...]:
        """The entry's presentation and decoding time, either of which a container may seek by."""
        at = np.flatnonzero(self.entries == number)
        return tuple(int(time) for time in (*self.times[[number]], *self.decoding_times[at]))


@dataclass(frozen=True)
class Run:
    """Packets [start, end), decoded in one go for the frames shown at `times`, rising."""

    start: int
    end: int
    times: tuple[int, ...]


def rising(entries: np.ndarray) -> np.ndarray:
    """The rows of int64 [E, ...] whose first value is above all earlier ones."""
    before = np.maximum.accumulate(entries[:, 0])[:-1]
    return entries[np.concatenate(([True], entries[1:, 0] > before))]


def plan(packets: Packets, wanted: np.ndarray, *, paired: bool) -> list[Run] | None:
    """Cut the decoding of the frames shown at `wanted` (int64, rising) into runs, in order.

    A frame is decoded from the last entry that comes before it both in decoding order and on show:
    one that is shown before its entry may refer to what came before. paired: pictures may
    go on in the next packet. None where the runs wouldn't give the frames in order.
    """
    order = packets.order
    numbers = order[np.searchsorted(packets.times, wanted, sorter=order)]
    shown = packets.times[packets.entries]
    by_number = np.searchsorted(packets.entries, numbers, side="right") - 1
    by_time = np.searchsorted(shown, wanted, side="right") - 1
    at = np.minimum(by_number, by_time)
    if (np.diff(at) < 0).any():
        return None
    runs = []
    cuts = np.flatnonzero(np.diff(at)) + 1
    for group in np.split(np.arange(len(wanted)), cuts):
        entry = at[group[0]]
        runs.append(
            Run(
                start=int(packets.entries[entry]) if entry >= 0 else 0,
                end=int(numbers[group].max()) + (2 if paired else 1),
                times=tuple(wanted[group].tolist()),
            )
        )
    return runs
