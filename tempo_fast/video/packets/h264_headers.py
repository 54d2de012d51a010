"""H.264 parameter sets and slice headers (7.3.2.1, 7.3.2.2, 7.3.3), as far as references need them.

Reading raises IndexError where a header ends early.
"""

from __future__ import annotations

from dataclasses import dataclass

from tempo_fast.video.packets.bits import Bits

_LOW_PROFILES = frozenset((66, 77, 88))
# SPS of these say how colours are sampled (7.3.2.1.1).
_HIGH_PROFILES = frozenset((100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135))
_KINDS = "PBI"  # slice_type modulo 5; what follows are SP and SI
IDR = 5


class UnmodelledError(ValueError):
    """A header that is sound but says something that isn't followed here."""


@dataclass(frozen=True)
class SequenceSet:
    """What a sequence parameter set says.

    number_bits, order_bits: of frame_num and of pic_order_cnt_lsb (0 where pictures aren't ordered
    by that). most: max_num_ref_frames; a decoder keeps at least one. gaps: frame numbers may be
    left out. columns, rows: macroblocks of a frame. frames_only: no picture is a field. colours:
    chroma is coded with luma. planes: three colour planes are coded one by one. special:
    macroblocks may be lossless, or the colours have all pixels.
    """

    name: int
    number_bits: int
    order_bits: int
    most: int
    gaps: bool
    columns: int
    rows: int
    frames_only: bool
    colours: bool
    planes: bool
    special: bool


@dataclass(frozen=True)
class PictureSet:
    """What a picture parameter set says; names as in 7.4.2.2, active: default list lengths."""

    bottom_order: bool
    groups: bool
    active: tuple[int, int]
    weighted: bool
    weighted_both: int
    redundant: bool


@dataclass(frozen=True)
class Slice:
    """What a slice header says.

    kind: P, B or I. number: frame_num. order: pic_order_cnt_lsb. bottom: delta_pic_order_cnt_bottom
    or 0. lengths: of its lists. changes: (modification_of_pic_nums_idc, abs_diff_pic_num_minus1) of
    each list. marked: it says itself which references end. ended: difference_of_pic_nums_minus1 of
    those.
    """

    kind: str
    number: int
    order: int
    bottom: int
    lengths: tuple[int, ...]
    changes: tuple[tuple[tuple[int, int], ...], ...]
    marked: bool
    ended: tuple[int, ...]


def read_sequence_set(data: bytes) -> SequenceSet:
    """Read an SPS, without the unit's header. Raises UnmodelledError for an unknown profile."""
    bits = Bits(data)
    profile = bits.take(8)
    bits.take(16)
    name = bits.golomb()
    chroma, planes, lossless = 1, False, False
    if profile not in _LOW_PROFILES | _HIGH_PROFILES:
        raise UnmodelledError
    if profile in _HIGH_PROFILES:
        chroma = bits.golomb()
        if chroma == 3:
            planes = bits.flag()
        bits.golomb()
        bits.golomb()
        lossless = bits.flag()
        if bits.flag():
            for number in range(8 if chroma != 3 else 12):
                if bits.flag():
                    _skip_scaling_list(bits, 16 if number < 6 else 64)
    number_bits = bits.golomb() + 4
    order, order_bits = bits.golomb(), 0
    if order == 0:
        order_bits = bits.golomb() + 4
    elif order == 1:
        bits.take(1)
        bits.signed_golomb()
        bits.signed_golomb()
        for _ in range(bits.golomb()):
            bits.signed_golomb()
    most, gaps = bits.golomb(), bits.flag()
    columns, rows = bits.golomb() + 1, bits.golomb() + 1
    return SequenceSet(
        name=name,
        number_bits=number_bits,
        order_bits=order_bits,
        most=most,
        gaps=gaps,
        columns=columns,
        rows=rows,
        frames_only=bits.flag(),
        colours=chroma != 0 and not planes,
        planes=planes,
        special=lossless or chroma == 3,
    )


def _skip_scaling_list(bits: Bits, size: int) -> None:
    last = following = 8
    for _ in range(size):
        if following:
            following = (last + bits.signed_golomb()) % 256
        last = following or last


def read_picture_set(data: bytes) -> tuple[int, PictureSet]:
    """Read a PPS, without the unit's header, and its number."""
    bits = Bits(data)
    number = bits.golomb()
    bits.golomb()
    bits.take(1)
    bottom_order = bits.flag()
    groups = bits.golomb() > 0
    if groups:  # what follows is elsewhere then
        return number, PictureSet(bottom_order, groups, (0, 0), False, 0, False)
    active = bits.golomb() + 1, bits.golomb() + 1
    weighted, weighted_both = bits.flag(), bits.take(2)
    for _ in range(3):
        bits.signed_golomb()
    bits.take(2)
    return number, PictureSet(bottom_order, groups, active, weighted, weighted_both, bits.flag())


def read_slice(
    unit: bytes, data: bytes, sequence: SequenceSet, sets: dict[int, PictureSet]
) -> Slice:
    """Read the header of a slice of a frame that is ordered by pic_order_cnt_lsb.

    unit: begins with the header of the slice's NAL unit; data: what follows it. Raises
    UnmodelledError for long-term references, SP and SI slices, slice groups, redundant slices and
    an unknown parameter set.
    """
    bits = Bits(data)
    bits.golomb()
    kind = bits.golomb() % 5
    pictures = sets.get(bits.golomb())
    if kind >= len(_KINDS) or pictures is None or pictures.groups:
        raise UnmodelledError
    kind = _KINDS[kind]
    number = bits.take(sequence.number_bits)
    idr = unit[0] & 31 == IDR
    if idr:
        bits.golomb()
    order = bits.take(sequence.order_bits)
    bottom = bits.signed_golomb() if pictures.bottom_order else 0
    if pictures.redundant and bits.golomb():
        raise UnmodelledError
    if kind == "B":
        bits.take(1)
    lengths: list[int] = []
    if kind != "I":
        lengths = [*pictures.active[: 2 if kind == "B" else 1]]
        if bits.flag():
            lengths = [bits.golomb() + 1 for _ in lengths]
    changes = [_read_changes(bits) for _ in lengths]
    if (kind == "P" and pictures.weighted) or (kind == "B" and pictures.weighted_both == 1):
        _skip_weights(bits, lengths, sequence.colours)
    marked, ended = _read_marking(bits, idr) if unit[0] & 0x60 else (False, ())
    return Slice(
        kind=kind,
        number=number,
        order=order,
        bottom=bottom,
        lengths=tuple(lengths),
        changes=tuple(changes),
        marked=marked,
        ended=ended,
    )


def _read_changes(bits: Bits) -> tuple[tuple[int, int], ...]:
    """ref_pic_list_modification of one list (7.3.3.1)."""
    changes = []
    if bits.flag():
        while (operation := bits.golomb()) != 3:
            if operation > 1:
                raise UnmodelledError
            changes.append((operation, bits.golomb()))
    return tuple(changes)


def _skip_weights(bits: Bits, lengths: list[int], colours: bool) -> None:
    """pred_weight_table (7.3.3.2)."""
    bits.golomb()
    if colours:
        bits.golomb()
    for length in lengths:
        for _ in range(length):
            for weights in (2, 4)[: 1 + colours]:
                if bits.flag():
                    for _ in range(weights):
                        bits.signed_golomb()


def _read_marking(bits: Bits, idr: bool) -> tuple[bool, tuple[int, ...]]:
    """dec_ref_pic_marking (7.3.3.3)."""
    if idr:
        bits.take(1)
        if bits.flag():
            raise UnmodelledError
        return False, ()
    ended = []
    marked = bits.flag()
    while marked and (operation := bits.golomb()):
        if operation > 1:
            raise UnmodelledError
        ended.append(bits.golomb())
    return marked, tuple(ended)
