"""A picture of H.264 in the place of one that nobody needs, the same to a decoder but for pixels.

It has the frame number, the place on show and the marking of references of the one that it stands
in for, so that everything else decodes as if that had been there, and a single slice that says:
macroblocks as in the reference before. A P slice whatever the picture's were: what is kept and in
which order frames come doesn't go by that. Ten or twenty bytes; where it has the first row alone, a
decoder that is told not to make up the others has next to nothing to do for it.
"""

from __future__ import annotations

from tempo_fast.video.packets.h264_headers import PictureSet, SequenceSet, Slice

_SLICE, _PICTURE_SET = 1, 8
_MOST_NAMES = 256


def free_name(sets: dict[int, PictureSet]) -> int | None:
    """A pic_parameter_set_id that the stream has no use for."""
    return next((name for name in range(_MOST_NAMES) if name not in sets), None)


def decoder_options(sequence: SequenceSet) -> dict[str, str]:
    """What FFmpeg's decoder is to be told where stand-ins of one row come.

    A picture that lacks just so many rows at the bottom is left as it is; of any other that lacks
    macroblocks they are made up, as ever.
    """
    return {"skip_bottom": str(sequence.rows - 1)}


def picture_set(name: int, sequence: SequenceSet, *, bottom_order: bool) -> bytes:
    """The NAL unit of the parameter set that stand-ins refer to: CAVLC, no weights (7.3.2.2)."""
    bits = _Writer()
    bits.golomb(name)
    bits.golomb(sequence.name)
    bits.put(0, 1)
    bits.put(bottom_order, 1)
    for _ in range(3):  # slice groups and the lists' lengths, all less one
        bits.golomb(0)
    bits.put(0, 3)  # weights
    for _ in range(3):  # quantizers
        bits.golomb(0)
    bits.put(0b100, 3)  # a slice says whether it is deblocked
    return bytes([3 << 5 | _PICTURE_SET]) + bits.unit()


def stand_in(
    head: Slice,
    importance: int,
    name: int,
    sequence: SequenceSet,
    blocks: int,
    *,
    bottom_order: bool,
) -> bytes:
    """The NAL unit of the only slice of the picture that stands in for the one of this header.

    importance: its nal_ref_idc, not 0. name: of the parameter set. blocks: macroblocks that it has.
    """
    bits = _Writer()
    for value in (0, 0, name):  # first macroblock, P slice
        bits.golomb(value)
    bits.put(head.number, sequence.number_bits)
    bits.put(head.order, sequence.order_bits)
    if bottom_order:
        bits.signed_golomb(head.bottom)
    bits.put(0, 2)  # the usual length of the list, and nothing changed in it
    bits.put(head.marked, 1)
    if head.marked:
        for less_one in head.ended:
            bits.golomb(1)
            bits.golomb(less_one)
        bits.golomb(0)
    bits.golomb(0)  # quantizer
    bits.golomb(1)  # not deblocked
    bits.golomb(blocks)  # all skipped
    return bytes([importance << 5 | _SLICE]) + bits.unit()


class _Writer:
    """Bits of a header, most significant first."""

    def __init__(self) -> None:
        self._value = self._length = 0

    def put(self, value: int, count: int) -> None:
        self._value = self._value << count | value
        self._length += count

    def golomb(self, value: int) -> None:
        """ue(v)."""
        self.put(value + 1, 2 * (value + 1).bit_length() - 1)

    def signed_golomb(self, value: int) -> None:
        """se(v)."""
        self.golomb(2 * value - 1 if value > 0 else -2 * value)

    def unit(self) -> bytes:
        """All of it with the stop bit, and no start code in it (7.4.1)."""
        spare = -(self._length + 1) % 8
        size = (self._length + 1 + spare) // 8
        safe, zeros = bytearray(), 0
        for byte in ((self._value << 1 | 1) << spare).to_bytes(size, "big"):
            if zeros == 2 and byte <= 3:
                safe.append(3)
                zeros = 0
            safe.append(byte)
            zeros = 0 if byte else zeros + 1
        return bytes(safe)
