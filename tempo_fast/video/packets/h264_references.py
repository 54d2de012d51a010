"""Which reference pictures of H.264 no wanted picture leans on, from slice headers alone.

B-pictures that only their neighbours refer to are references like any other by their NAL units.
Here the frames that a decoder keeps are followed through the headers (H.264, 8.2.1, 8.2.4 and
8.2.5), to learn which of them a picture may refer to. What leads to no wanted picture needn't be
decoded: a stand-in takes its place, so that the decoder keeps and counts what it would have.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tempo_fast.video.packets.h264_headers import (
    IDR,
    PictureSet,
    SequenceSet,
    Slice,
    UnmodelledError,
    read_slice,
)
from tempo_fast.video.packets.h264_stand_in import free_name, picture_set, stand_in
from tempo_fast.video.packets.nal import NalSyntax, payload
from tempo_fast.video.packets.syntax import Packets

_SLICES = (1, IDR)
_HARMLESS = (6, 9, 12)  # SEI, delimiter, filler


@dataclass(frozen=True)
class _Frame:
    """A reference that the decoder keeps. number: frame_num; order: on show; at: its packet."""

    number: int
    order: int
    at: int


@dataclass(frozen=True)
class _Picture:
    """A packet's picture.

    reference: others may refer to it. needs: packets that it may refer to itself. follows: the
    decoder keeps another frame when it comes.
    """

    head: Slice
    reference: bool
    idr: bool
    needs: frozenset[int]
    follows: bool


class References:
    """Follows the packets of one run from its start on, and says what to give the decoder."""

    def __init__(
        self, sequence: SequenceSet, sets: dict[int, PictureSet], syntax: NalSyntax, rows: int = 1
    ) -> None:
        """rows: of macroblocks, that stand-ins have."""
        self._sequence, self._sets, self._syntax = sequence, sets, syntax
        self._rows = rows
        self._bottom_order = any(each.bottom_order for each in sets.values())
        self._name = free_name(sets)
        self._numbers = 1 << sequence.number_bits
        self._orders = 1 << sequence.order_bits
        self._most = max(1, sequence.most)
        self._at = 0
        # Until an IDR picture, and after anything that isn't modelled, nothing is known.
        self._known = False
        self._kept: list[_Frame] = []  # latest first
        self._number = self._order = 0  # frame_num and order (of its top) of the last one

    def choose(self, packets: Packets) -> list[bytes | None]:
        """What to decode in the place of the next packets (see Syntax.chooser)."""
        first = self._at
        given = self._syntax.left_out(packets)
        pictures: list[_Picture | None] = []
        known = True
        for data in given:
            pictures.append(self._follow(data) if data is not None else None)
            known = known and (self._known or data is None)
            self._at += 1
        if not known or self._name is None:
            return given
        # What is kept at the end may be referred to by what comes after.
        leads = {frame.at for frame in self._kept}
        for number in reversed(range(len(packets))):
            picture, (data, wanted) = pictures[number], packets[number]
            if picture is None:
                continue
            if wanted or picture.idr or not picture.follows or first + number in leads:
                leads |= picture.needs
            else:
                given[number] = self._replaced(data, picture.head) if picture.reference else None
        return given

    def _replaced(self, data: bytes, head: Slice) -> bytes:
        """The packet with a stand-in for its picture."""
        units = list(self._syntax.split(data))
        importance = next(unit[0] >> 5 for unit in units if unit[0] & 31 in _SLICES)
        others = [unit for unit in units if unit[0] & 31 not in _SLICES]
        sequence, name, bottom = self._sequence, self._name, self._bottom_order
        blocks = self._rows * sequence.columns
        return self._syntax.join(
            [
                *others,
                picture_set(name, sequence, bottom_order=bottom),
                stand_in(head, importance, name, sequence, blocks, bottom_order=bottom),
            ]
        )

    def _follow(self, data: bytes) -> _Picture | None:
        """Take a packet's picture in. None where it isn't known from here on what is kept."""
        try:
            headers, reference, idr = self._read(data)
            if idr:
                self._known = True
            return self._take(headers, reference, idr) if self._known else None
        except (ValueError, IndexError):
            self._known = False
            return None

    def _read(self, data: bytes) -> tuple[list[Slice], bool, bool]:
        """The headers of a packet's slices, and whether it is a reference and an IDR picture."""
        headers, kinds = [], set()
        for unit in self._syntax.split(data):
            if unit[0] & 31 in _SLICES:
                headers.append(read_slice(unit, payload(unit)[1:], self._sequence, self._sets))
                kinds.add((unit[0] & 0x60, unit[0] & 31 == IDR))
            elif unit[0] & 31 not in _HARMLESS and not self._syntax.is_known_set(unit):
                raise UnmodelledError
        said = {(each.number, each.order, each.bottom, each.marked, each.ended) for each in headers}
        if len(said) != 1 or len(kinds) != 1:
            raise UnmodelledError
        importance, idr = kinds.pop()
        return headers, importance > 0, idr

    def _take(self, headers: list[Slice], reference: bool, idr: bool) -> _Picture:
        head = headers[0]
        if idr:
            if not reference:
                raise UnmodelledError
            self._kept, top = [], head.order
        else:
            if head.number != (self._number + 1) % self._numbers:
                raise UnmodelledError
            top = self._whole_order(head.order)
        order = top + min(0, head.bottom)
        picture = _Picture(
            head=head,
            reference=reference,
            idr=idr,
            needs=frozenset(at for each in headers for at in self._needs(each, order)),
            follows=bool(self._kept),
        )
        if reference:
            self._mark(head)
            self._kept.insert(0, _Frame(head.number, order, self._at))
            self._number, self._order = head.number, top
        return picture

    def _whole_order(self, low: int) -> int:
        """TopFieldOrderCnt from its lowest bits and the last reference's (8.2.1.1)."""
        half = self._orders // 2
        return self._order + half - (half - low + self._order) % self._orders

    def _needs(self, header: Slice, order: int) -> Iterator[int]:
        """The packets of the pictures in a slice's lists."""
        for initial, length, changes in zip(
            self._initial(header, order), header.lengths, header.changes, strict=True
        ):
            listed = self._changed(initial[:length], header.number, changes)
            yield from (frame.at for frame in listed[:length])

    def _initial(self, header: Slice, order: int) -> list[list[_Frame]]:
        """The lists that a slice begins with."""
        if header.kind == "I":
            return []
        if header.kind == "P":  # PicNum falls from the latest on (8.2.4.2.1)
            return [self._kept]
        if any(frame.order == order for frame in self._kept):
            raise UnmodelledError
        near = sorted(self._kept, key=lambda frame: abs(frame.order - order))  # 8.2.4.2.3
        before = [frame for frame in near if frame.order < order]
        after = [frame for frame in near if frame.order > order]
        lists = [before + after, after + before]
        if len(near) > 1 and lists[0] == lists[1]:
            lists[1] = [*lists[1][1::-1], *lists[1][2:]]
        return lists

    def _changed(
        self, listed: list[_Frame], current: int, changes: tuple[tuple[int, int], ...]
    ) -> list[_Frame]:
        """A list after ref_pic_list_modification (8.2.4.3.1)."""
        predicted = current
        for place, (operation, less_one) in enumerate(changes):
            predicted += less_one + 1 if operation else -less_one - 1
            frame = self._numbered(predicted)
            rest = [other for other in listed[place:] if other != frame]
            listed = [*listed[:place], frame, *rest]
        return listed

    def _numbered(self, number: int) -> _Frame:
        """The frame that is kept under a frame number."""
        number %= self._numbers
        for frame in self._kept:
            if frame.number == number:
                return frame
        raise UnmodelledError

    def _mark(self, header: Slice) -> None:
        """Let go of the references that end with this one (8.2.5.3, 8.2.5.4.1)."""
        if not header.marked:
            del self._kept[self._most - 1 :]
        for less_one in header.ended:
            self._kept.remove(self._numbered(header.number - less_one - 1))
        if len(self._kept) >= self._most:
            raise UnmodelledError
