"""H.264 packets: which pictures others refer to, and where decoding can begin.

Both are read from the headers of NAL units alone (H.264, 7.3.1 and 7.4.1).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from tempo_fast.video.packets.bits import Bits
from tempo_fast.video.packets.h264_headers import (
    IDR,
    PictureSet,
    SequenceSet,
    UnmodelledError,
    read_picture_set,
    read_sequence_set,
)
from tempo_fast.video.packets.h264_references import References
from tempo_fast.video.packets.h264_stand_in import decoder_options
from tempo_fast.video.packets.nal import NalSyntax, payload
from tempo_fast.video.packets.syntax import Packets

_RECOVERY_POINT = 6
_X264 = re.compile(rb"x264 - core (\d+)")
# Builds up to the one and before the other coded direct prediction and lossless pictures otherwise.
_OTHER_DIRECT, _OTHER_LOSSLESS = 33, 151


class H264(NalSyntax):
    """H.264."""

    length_at = 4

    def __init__(self, extradata: bytes) -> None:
        self._fields = False
        # As far as they tell what pictures refer to.
        self._sequences: list[SequenceSet] = []
        self._pictures: dict[int, PictureSet] = {}
        self._plain = True
        self._starts: set[tuple[int, ...]] = set()  # of keyframes' slices: their first macroblocks
        super().__init__(extradata)

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
        kind, data = unit[0] & 31, payload(unit)[1:]
        try:
            if kind == 7:
                self._sequences.append(read_sequence_set(data))
            elif kind == 8:
                number, pictures = read_picture_set(data)
                self._plain = self._plain and number not in self._pictures
                self._pictures[number] = pictures
            else:
                self._plain = False
        except (IndexError, UnmodelledError):
            self._plain = False
            self._fields = self._fields or kind == 7
        self._fields = self._fields or not all(each.frames_only for each in self._sequences)
        self.paired = self._fields

    def _notice(self, unit: bytes) -> None:
        # Of old x264 FFmpeg undoes some mistakes, in pictures after the one packet that names it.
        if unit[0] & 31 != 6 or not (named := _X264.search(unit)):
            return
        build = int(named[1])
        special = not self._sequences or any(each.special for each in self._sequences)
        if build <= _OTHER_DIRECT or (build < _OTHER_LOSSLESS and special):
            self.steady = self.threaded = False

    def _notice_slices(self, units: list[bytes]) -> None:
        try:
            self._starts.add(tuple(Bits(payload(unit)[1:]).golomb() for unit in units))
        except IndexError:
            self._starts |= {(), (0,)}

    def _is_entry(self, units: list[bytes]) -> bool:
        """An IDR picture, or a recovery point from which on everything shown is exact."""
        if not units:
            return False
        kind = units[-1][0] & 31
        return kind == IDR or (kind == 1 and any(_is_exact_recovery(unit) for unit in units))

    def droppable(self, data: bytes) -> bool:
        """Whether it holds a picture with nal_ref_idc 0 and nothing else of consequence."""
        if self._fields or not self._known:
            return False
        pictures = 0
        try:
            for unit in self.split(data):
                kind = unit[0] & 31
                if kind == 1 and not unit[0] & 0x60:
                    pictures += 1
                elif kind not in (6, 9, 12):  # SEI, delimiter, filler
                    return False
        except ValueError:
            return False
        return pictures > 0

    def _followed(self) -> SequenceSet | None:
        """The only sequence parameter set, where references can be followed by it."""
        if not self._plain or self._fields or len(self._sequences) != 1:
            return None
        (sequence,) = self._sequences
        orders = {each.bottom_order for each in self._pictures.values()}
        if not sequence.order_bits or sequence.gaps or sequence.planes or len(orders) != 1:
            return None
        return sequence

    def chooser(self) -> Callable[[Packets], list[bytes | None]]:
        sequence = self._followed()
        if sequence is None:
            return super().chooser()
        rows = 1 if self._one_row_is_none(sequence) else sequence.rows
        return References(sequence, self._pictures, self, rows).choose

    def chooser_options(self) -> dict[str, str]:
        sequence = self._followed()
        if sequence is None or not self._one_row_is_none(sequence):
            return {}
        return decoder_options(sequence)

    def _one_row_is_none(self, sequence: SequenceSet) -> bool:
        """Whether a picture that misses some slices still has more than one row of macroblocks.

        Else it could be taken for a stand-in of one row, and what is missing wouldn't be made up.
        """
        if len(self._starts) > 1:  # the slices aren't always the same
            return False
        starts = next(iter(self._starts), (0,))
        ends = (*starts[1:], sequence.columns * sequence.rows)
        return all(end - start > sequence.columns for start, end in zip(starts, ends, strict=True))


def _is_exact_recovery(unit: bytes) -> bool:
    """Whether it is an SEI with a recovery point right here that promises exact pictures."""
    if unit[0] & 31 != 6:
        return False
    data, at = payload(unit), 1
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
