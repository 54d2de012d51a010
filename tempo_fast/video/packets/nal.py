"""H.264 and HEVC packets: which pictures others refer to, and where decoding can begin.

Both are read from the headers of NAL units alone (H.264, 7.3.1 and 7.4.1; H.265, 7.3.1.2 and
7.4.2.2).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

from tempo_fast.video.packets.bits import Bits
from tempo_fast.video.packets.syntax import Syntax

# SPS of these profiles say how colours are sampled (H.264 7.3.2.1.1).
_HIGH_PROFILES = frozenset((100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135))
_RECOVERY_POINT = 6
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


def _payload(unit: bytes) -> bytes:
    """A NAL unit's first bytes without the ones that only keep start codes from appearing."""
    return unit[:_HEADER_BYTES].replace(b"\0\0\3", b"\0\0")


class _NalSyntax(Syntax, ABC):
    """What H.264 and HEVC share: units, and parameter sets that must stay the same.

    A decoder that skips to a keyframe misses parameter sets on the way. That is exact only where
    the stream has one set of them from start to end.
    """

    header: int  # bytes of a unit's header
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

    @abstractmethod
    def _is_picture(self, unit: bytes) -> bool: ...

    @abstractmethod
    def _learn(self, unit: bytes) -> None: ...

    def _units(self, data: bytes) -> Iterator[bytes]:
        return _with_lengths(data, self._length) if self._length else _annex_b(data)

    def look(self, data: bytes, keyframe: bool) -> bool:
        before, sound = [], True
        try:
            # Parameter sets come before the first slice; the rest needn't be looked through.
            for unit in self._units(data):
                before.append(unit)
                if self._is_picture(unit):
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
        if not sound or not keyframe or not self._known or (self._anew and sets != self._known):
            return False
        return self._is_entry(before)

    @abstractmethod
    def _is_entry(self, units: list[bytes]) -> bool: ...


class H264(_NalSyntax):
    """H.264."""

    length_at = 4

    def __init__(self, extradata: bytes) -> None:
        self._fields = False
        super().__init__(extradata)
        self.paired = self._fields

    def _configured(self, extradata: bytes) -> Iterator[bytes]:
        at, count = 6, extradata[5] & 31
        for _ in range(2):
            for _ in range(count):
                length = int.from_bytes(extradata[at : at + 2], "big")
                yield extradata[at + 2 : at + 2 + length]
                at += 2 + length
            count = extradata[at] if at < len(extradata) else 0
            at += 1

    def _is_set(self, unit: bytes) -> bool:
        return unit[0] & 31 in (7, 8, 13, 15)

    def _is_picture(self, unit: bytes) -> bool:
        return 1 <= unit[0] & 31 <= 5

    def _learn(self, unit: bytes) -> None:
        if unit[0] & 31 == 7 and not _frames_only(_payload(unit)[1:]):
            self._fields = self.paired = True

    def _is_entry(self, units: list[bytes]) -> bool:
        """An IDR picture, or a recovery point from which on everything shown is exact."""
        if not units:
            return False
        kind = units[-1][0] & 31
        return kind == 5 or (kind == 1 and any(_is_exact_recovery(unit) for unit in units))

    def droppable(self, data: bytes) -> bool:
        """Whether it holds a picture with nal_ref_idc 0 and nothing else of consequence."""
        if self._fields or not self._known:
            return False
        pictures = 0
        try:
            for unit in self._units(data):
                kind = unit[0] & 31
                if kind == 1 and not unit[0] & 0x60:
                    pictures += 1
                elif kind not in (6, 9, 12):  # SEI, delimiter, filler
                    return False
        except ValueError:
            return False
        return pictures > 0


class Hevc(_NalSyntax):
    """HEVC."""

    length_at = 21

    def __init__(self, extradata: bytes) -> None:
        self._top = 0  # the highest temporal layer that the stream may have
        super().__init__(extradata)

    def _configured(self, extradata: bytes) -> Iterator[bytes]:
        at = 23
        for _ in range(extradata[22]):
            count = int.from_bytes(extradata[at + 1 : at + 3], "big")
            at += 3
            for _ in range(count):
                length = int.from_bytes(extradata[at : at + 2], "big")
                yield extradata[at + 2 : at + 2 + length]
                at += 2 + length

    @staticmethod
    def _type(unit: bytes) -> int:
        return unit[0] >> 1 & 63

    def _is_set(self, unit: bytes) -> bool:
        return 32 <= self._type(unit) <= 34

    def _is_picture(self, unit: bytes) -> bool:
        return self._type(unit) < 32

    def _learn(self, unit: bytes) -> None:
        if self._type(unit) == 33 and len(unit) > 2:
            self._top = max(self._top, unit[2] >> 1 & 7)

    def _is_entry(self, units: list[bytes]) -> bool:
        """A BLA, IDR or CRA picture."""
        return bool(units) and 16 <= self._type(units[-1]) <= 21

    def droppable(self, data: bytes) -> bool:
        """Whether it holds one sub-layer non-reference picture of the highest temporal layer."""
        if not self._known:
            return False
        pictures = 0
        try:
            for unit in self._units(data):
                kind = self._type(unit)
                layer, temporal = (unit[0] & 1) << 5 | unit[1] >> 3, (unit[1] & 7) - 1
                if layer:
                    return False
                if kind < 16:
                    if kind % 2 or temporal != self._top:
                        return False
                    pictures += 1
                elif kind not in (35, 38, 39, 40):  # delimiter, filler, SEI
                    return False
        except (ValueError, IndexError):
            return False
        return pictures > 0


def _frames_only(sps: bytes) -> bool:
    """frame_mbs_only_flag of an H.264 SPS: no picture is a field. False where it can't be read."""
    bits = Bits(sps)
    try:
        profile = bits.take(8)
        bits.take(16)
        bits.golomb()
        if profile in _HIGH_PROFILES:
            chroma = bits.golomb()
            if chroma == 3:
                bits.take(1)
            bits.golomb()
            bits.golomb()
            bits.take(1)
            if bits.flag():
                for number in range(8 if chroma != 3 else 12):
                    if bits.flag():
                        _skip_scaling_list(bits, 16 if number < 6 else 64)
        bits.golomb()
        order = bits.golomb()
        if order == 0:
            bits.golomb()
        elif order == 1:
            bits.take(1)
            bits.signed_golomb()
            bits.signed_golomb()
            for _ in range(bits.golomb()):
                bits.signed_golomb()
        bits.golomb()
        bits.take(1)
        bits.golomb()
        bits.golomb()
        return bits.flag()
    except IndexError:
        return False


def _skip_scaling_list(bits: Bits, size: int) -> None:
    last = following = 8
    for _ in range(size):
        if following:
            following = (last + bits.signed_golomb()) % 256
        last = following or last


def _is_exact_recovery(unit: bytes) -> bool:
    """Whether it is an SEI with a recovery point right here that promises exact pictures."""
    if unit[0] & 31 != 6:
        return False
    data, at = _payload(unit), 1
    while at + 2 < len(data):
        header = []
        for _ in range(2):  # the message's type, then its size
            value = 0
            while at < len(data) and data[at] == 255:
                value, at = value + 255, at + 1
            if at == len(data):
                return False
            header.append(value + data[at])
            at += 1
        if header[0] == _RECOVERY_POINT:
            bits = Bits(data[at : at + header[1]])
            try:
                return not bits.golomb() and bits.flag()
            except IndexError:
                return False
        at += header[1]
    return False
