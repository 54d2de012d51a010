"""What H.264 and HEVC share: packets of NAL units, among them parameter sets."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator

from tempo_fast.video.packets.syntax import Buffer, Syntax

_HEADER_BYTES = 512


def _annex_b(data: bytes) -> Iterator[bytes]:
    """The NAL units between start codes."""
    start = data.find(b"\0\0\1")
    while start >= 0:
        end = data.find(b"\0\0\1", start + 3)
        unit = data[start + 3 : end] if end >= 0 else data[start + 3 :]
        # Zeros before the next start code don't belong to the unit, which never ends in one.
        if unit := unit.rstrip(b"\0"):
            yield unit
        start = end


def _with_lengths(data: bytes, size: int) -> Iterator[bytes]:
    """The NAL units, each after its length in `size` bytes; ValueError where they don't add up."""
    at = 0
    while at < len(data):
        length = int.from_bytes(data[at : at + size], "big")
        at += size
        if not length or at + length > len(data):
            raise ValueError("the lengths of NAL units don't add up")
        yield data[at : at + length]
        at += length


def payload(unit: bytes) -> bytes:
    """A NAL unit's first bytes without the ones that only keep start codes from appearing."""
    return unit[:_HEADER_BYTES].replace(b"\0\0\3", b"\0\0")


class NalSyntax(Syntax, ABC):
    """A syntax of NAL units whose parameter sets must stay the same.

    A decoder that skips to a keyframe misses parameter sets on the way. That is exact only where
    the stream has one set of them from start to end.
    """

    length_at: int  # where extradata says how long the lengths of units are

    def __init__(self, extradata: bytes) -> None:
        super().__init__()
        configured = bool(extradata) and extradata[0] == 1
        self._length = (extradata[self.length_at] & 3) + 1 if configured else 0
        units = self._configured(extradata) if configured else _annex_b(extradata)
        self._known = {unit for unit in units if self._is_set(unit)}
        self._anew = not self._known
        for unit in self._known:
            self._learn(unit)

    @abstractmethod
    def _configured(self, extradata: bytes) -> Iterator[bytes]: ...

    @abstractmethod
    def _is_set(self, unit: bytes) -> bool: ...

    def is_known_set(self, unit: bytes) -> bool:
        """Whether it is one of the parameter sets that hold from start to end."""
        return unit in self._known

    @abstractmethod
    def _is_picture(self, unit: bytes) -> bool: ...

    def _notice(self, unit: bytes) -> None:
        """Take in what a unit up to a packet's first picture says."""

    def _notice_slices(self, units: list[bytes]) -> None:
        """Take in how a keyframe is cut into slices."""

    @abstractmethod
    def _learn(self, unit: bytes) -> None: ...

    def split(self, data: bytes) -> Iterator[bytes]:
        """A packet's NAL units; ValueError where their lengths don't add up."""
        return _with_lengths(data, self._length) if self._length else _annex_b(data)

    def join(self, units: Iterable[bytes]) -> bytes:
        """A packet of these NAL units."""
        size = self._length
        return b"".join(
            (len(unit).to_bytes(size, "big") if size else b"\0\0\0\1") + unit for unit in units
        )

    def look(self, data: Buffer, keyframe: bool) -> bool:
        first = data[self._length : self._length + 1] if self._length else b""
        if first and not keyframe and self._is_picture(first):
            return False  # like most packets; before its picture is nothing to look at
        before, sound = [], True
        try:
            # Parameter sets come before the first slice; the rest needn't be looked through.
            units = self.split(bytes(data))
            for unit in units:
                before.append(unit)
                if self._is_picture(unit):
                    if keyframe:
                        self._notice_slices([unit, *filter(self._is_picture, units)])
                    break
        except ValueError:
            sound = False
        sets = {unit for unit in before if self._is_set(unit)}
        if sets - self._known:
            if not self._known and keyframe:
                self._known = sets
                for unit in sets:
                    self._learn(unit)
            else:
                self.steady = False
        for unit in before:
            self._notice(unit)
        if not sound or not keyframe or not self._known or (self._anew and sets != self._known):
            return False
        return self._is_entry(before)

    @abstractmethod
    def _is_entry(self, units: list[bytes]) -> bool: ...
