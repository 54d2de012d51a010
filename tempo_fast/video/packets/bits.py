"""Read the bits of a coded header."""

from __future__ import annotations


class Bits:
    """Bits of `data` from its first byte on, most significant first.

    Reading past the end raises IndexError.
    """

    def __init__(self, data: bytes) -> None:
        self._value = int.from_bytes(data, "big")
        self._left = len(data) * 8

    def take(self, count: int) -> int:
        """The next `count` bits as an unsigned number."""
        if count > self._left:
            raise IndexError("the header ends early")
        self._left -= count
        return self._value >> self._left & (1 << count) - 1

    def flag(self) -> bool:
        return bool(self.take(1))

    def golomb(self) -> int:
        """An unsigned Exp-Golomb code: ue(v) of H.264 and HEVC, uvlc() of AV1."""
        zeros = self._left - (self._value & (1 << self._left) - 1).bit_length()
        return self.take(2 * zeros + 1) - 1

    def signed_golomb(self) -> int:
        """A signed Exp-Golomb code: se(v)."""
        code = self.golomb()
        return (code + 1) // 2 if code % 2 else -(code // 2)
