"""AV1 packets: frames that refresh no reference slot, and keyframes that refresh all.

Everything that one AV1 frame takes from another goes through the eight slots (AV1 specification,
5.9, 7.20, 7.21), so a frame that refreshes none can be left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tempo_fast.video.packets.bits import Bits
from tempo_fast.video.packets.syntax import Buffer, Syntax

_SEQUENCE, _DELIMITER, _FRAME_HEADER, _GROUP, _METADATA, _FRAME = 1, 2, 3, 4, 5, 6
_REDUNDANT, _PADDING = 7, 15
_KEY, _INTRA_ONLY, _SWITCH = 0, 2, 3
_HEADER_BYTES = 64


def _units(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(type, payload) of the OBUs; ValueError where their sizes don't add up."""
    at = 0
    while at < len(data):
        first = data[at]
        at += 2 if first & 4 else 1
        size = len(data) - at
        if first & 2:
            size = 0
            for place in range(8):
                if at >= len(data):
                    raise ValueError("an OBU ends early")
                byte, at = data[at], at + 1
                size |= (byte & 127) << 7 * place
                if byte < 128:
                    break
        if at + size > len(data) or size < 0:
            raise ValueError("an OBU ends early")
        yield first >> 3 & 15, data[at : at + size]
        at += size


@dataclass(frozen=True)
class _Sequence:
    """What a sequence header says about the fields before refresh_frame_flags."""

    reduced: bool
    id_bits: int
    order_bits: int
    choose_screen: bool
    screen: bool
    choose_integer: bool


def _sequence(data: bytes) -> _Sequence | None:
    """Read a sequence header (5.5.1); None for one with a decoder model, which isn't read."""
    bits = Bits(data[:256])
    bits.take(4)
    reduced = bits.flag()
    if reduced:
        return _Sequence(True, 0, 0, True, False, True)
    if bits.flag():  # timing_info
        bits.take(64)
        if bits.flag():
            bits.golomb()
        if bits.flag():
            return None
    delays = bits.flag()
    for _ in range(bits.take(5) + 1):
        bits.take(12)
        if bits.take(5) > 7:
            bits.take(1)
        if delays and bits.flag():
            bits.take(4)
    width, height = bits.take(4) + 1, bits.take(4) + 1
    bits.take(width + height)
    id_bits = 0
    if bits.flag():
        delta = bits.take(4) + 2
        id_bits = bits.take(3) + delta + 1
    bits.take(3)  # 128x128 superblocks, filter intra, intra edge filter
    bits.take(4)  # inter-intra and masked compound, warped motion, dual filter
    order = bits.flag()
    if order:
        bits.take(2)
    choose_screen = bits.flag()
    screen = True if choose_screen else bits.flag()
    choose_integer = bits.flag() if screen else True
    if screen and not choose_integer:
        bits.take(1)
    return _Sequence(
        False, id_bits, bits.take(3) + 1 if order else 0, choose_screen, screen, choose_integer
    )


@dataclass(frozen=True)
class _Frame:
    key: bool
    shown: bool
    refreshes: int


def _frame(data: bytes, sequence: _Sequence) -> _Frame | None:
    """Read a frame header (5.9.2) as far as refresh_frame_flags; None for a repeated frame."""
    if sequence.reduced:
        return _Frame(True, True, 255)
    bits = Bits(data[:_HEADER_BYTES])
    if bits.flag():
        return None
    kind, shown = bits.take(2), bits.flag()
    if not shown:
        bits.take(1)
    if kind == _SWITCH or (kind == _KEY and shown):
        return _Frame(kind == _KEY, shown, 255)
    resilient = bits.flag()
    bits.take(1)
    screen = bits.flag() if sequence.choose_screen else sequence.screen
    if screen and sequence.choose_integer:
        bits.take(1)
    bits.take(sequence.id_bits)
    bits.take(1 + sequence.order_bits)
    if kind != _KEY and kind != _INTRA_ONLY and not resilient:
        bits.take(3)
    return _Frame(kind == _KEY, shown, bits.take(8))


class Av1(Syntax):
    """AV1."""

    def __init__(self) -> None:
        # What the container says of the stream is not always what the stream then says.
        self._header: bytes | None = None
        self._sequence: _Sequence | None = None

    @staticmethod
    def _read(header: bytes) -> _Sequence | None:
        try:
            return _sequence(header)
        except IndexError:
            return None

    def look(self, data: Buffer, keyframe: bool) -> bool:
        header = None
        try:
            for kind, unit in _units(bytes(data)):
                if kind == _SEQUENCE:
                    header = unit
                    self.steady = self.steady and self._header in (None, header)
                elif kind in (_FRAME, _FRAME_HEADER):
                    break
            else:
                return False
        except ValueError:
            return False
        if self._header is None:
            if header is None:
                self.steady = False
                return False
            self._header, self._sequence = header, self._read(header)
        if header is None or not keyframe or self._sequence is None:
            return False
        frame = self._try_frame(unit)
        return frame is not None and frame.key and frame.shown

    def _try_frame(self, unit: bytes) -> _Frame | None:
        try:
            return _frame(unit, self._sequence)
        except IndexError:
            return None

    def droppable(self, data: bytes) -> bool:
        """Whether all its frames refresh no slot."""
        if self._sequence is None:
            return False
        frames = 0
        try:
            for kind, unit in _units(data):
                if kind in (_FRAME, _FRAME_HEADER):
                    frame = self._try_frame(unit)
                    if frame is None or frame.refreshes:
                        return False
                    frames += 1
                elif kind not in (_DELIMITER, _GROUP, _METADATA, _REDUNDANT, _PADDING):
                    return False
        except ValueError:
            return False
        return frames > 0
