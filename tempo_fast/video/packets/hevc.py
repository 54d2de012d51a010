"""HEVC packets: which pictures others refer to, and where decoding can begin.

Both are read from the headers of NAL units alone (H.265, 7.3.1.2 and 7.4.2.2).
"""

from __future__ import annotations

from collections.abc import Iterator

from tempo_fast.video.packets.nal import NalSyntax


class Hevc(NalSyntax):
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
            for unit in self.split(data):
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
