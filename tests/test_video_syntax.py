"""Headers read by hand: what they say, and that broken ones say nothing."""

import random
from dataclasses import replace

import pytest

from tempo_fast.video.packets.av1 import Av1
from tempo_fast.video.packets.bits import Bits
from tempo_fast.video.packets.codecs import syntax_of
from tempo_fast.video.packets.h264 import H264, _is_exact_recovery
from tempo_fast.video.packets.h264_headers import (
    PictureSet,
    SequenceSet,
    Slice,
    read_picture_set,
    read_slice,
)
from tempo_fast.video.packets.h264_references import References
from tempo_fast.video.packets.h264_stand_in import picture_set, stand_in
from tempo_fast.video.packets.hevc import Hevc
from tempo_fast.video.packets.nal import _annex_b, _with_lengths, payload
from tempo_fast.video.packets.syntax import Mpeg2, Syntax, Vp8, Vp9


def test_bits():
    bits = Bits(bytes([0b1010_0110, 0b0100_0010, 0b1000_0000]))
    assert (bits.take(1), bits.golomb(), bits.golomb()) == (1, 1, 2)
    assert bits.take(0) == 0
    bits = Bits(bytes([0b1_010_011_0, 0b0100_0010, 0b1_0000000]))
    assert [bits.signed_golomb() for _ in range(5)] == [0, 1, -1, 2, -2]
    with pytest.raises(IndexError):
        bits.golomb()


def test_units_between_start_codes():
    assert list(_annex_b(b"\0\0\0\1\x67ab\0\0\1\x68c\0\0\0\0\1\x65d\0")) == [
        b"\x67ab",
        b"\x68c",
        b"\x65d",
    ]
    assert list(_annex_b(b"none")) == []


def test_units_after_their_lengths():
    assert list(_with_lengths(b"\0\3abc\0\1d", 2)) == [b"abc", b"d"]
    for broken in (b"\0\4abc", b"\0\0", b"\0\3ab"):
        with pytest.raises(ValueError):
            list(_with_lengths(broken, 2))


def test_a_recovery_point_must_be_here_and_exact():
    # Payload type 6, one byte: recovery_frame_cnt ue(v), exact_match_flag.
    assert _is_exact_recovery(bytes([6, 6, 1, 0b1_1_000000, 0x80]))
    assert not _is_exact_recovery(bytes([6, 6, 1, 0b1_0_000000, 0x80]))
    assert not _is_exact_recovery(bytes([6, 6, 1, 0b010_1_0000, 0x80]))
    assert _is_exact_recovery(bytes([6, 5, 2, 9, 9, 6, 1, 0b1_1_000000, 0x80]))
    assert not _is_exact_recovery(bytes([6, 5, 1, 9, 0x80]))
    assert not _is_exact_recovery(bytes([6, 255, 255]))


@pytest.mark.parametrize(
    ("syntax", "data", "begins"),
    [
        (Vp9(), bytes([0b10_00_0_0_1_0]), True),
        (Vp9(), bytes([0b10_00_0_1_1_0]), False),  # an inter frame
        (Vp9(), bytes([0b10_00_1_0_0_0]), False),  # shows an older frame again
        (Vp9(), bytes([0b10_11_0_0_0_1]), True),
        (Vp9(), bytes([0b10_11_0_0_1_1]), False),
        (Vp8(), b"\x10", True),
        (Vp8(), b"\x11", False),
        (Mpeg2(), b"\0\0\1\xb3....", True),
        (Mpeg2(), b"\0\0\1\0....", False),  # no sequence header to reset by
        (Syntax(), b"anything", False),
    ],
)
def test_where_decoding_can_begin(syntax, data, begins):
    assert syntax.look(data, True) == begins
    assert not syntax.look(data, False)


def test_changing_parameter_sets_are_not_steady():
    sps, pps, slice_ = b"\x67\x42\0\x1e\xab\x40", b"\x68\xce\x38\x80", b"\x65\x88\x84"
    start = b"\0\0\0\1"
    syntax = H264(b"")
    assert syntax.look(start + start.join((sps, pps, slice_)), True)
    assert syntax.look(start + start.join((sps, pps, slice_)), True) and syntax.steady
    assert not syntax.look(start + slice_, True)  # its sets came before
    assert syntax.steady
    syntax.look(start + start.join((pps + b"\x01", b"\x41\x9a")), False)
    assert not syntax.steady


@pytest.mark.parametrize(
    "make", [lambda: H264(b""), lambda: Hevc(b""), Av1, lambda: syntax_of("mpeg4", b""), Vp9, Vp8]
)
def test_noise_is_neither_dropped_nor_begun_at(make):
    noise = random.Random(3)
    syntax = make()
    for _ in range(300):
        data = b"\0\0\1" + noise.randbytes(noise.randrange(1, 40))
        syntax.look(data, noise.random() < 0.5)
        assert syntax.droppable(data) in (True, False)
    fresh = make()
    assert not any(fresh.droppable(noise.randbytes(30)) for _ in range(300))


def test_mpeg4_pictures():
    # A video object layer of 64x48 pixels, 25 a second, progressive; then as interlaced.
    for interlaced in (0, 1):
        bits = "0" + "00000001" + "0" + "0001" + "0" + "00" + "1" + f"{25:016b}" + "1" + "0"
        bits += "1" + f"{64:013b}" + "1" + f"{48:013b}" + "1" + str(interlaced) + "1" * 9
        bits += "0" * (-len(bits) % 8)
        layer = b"\0\0\1\x20" + int(bits, 2).to_bytes(len(bits) // 8, "big")
        syntax = syntax_of("mpeg4", layer)
        start = b"\0\0\1\xb6"
        kinds = {kind: start + bytes([n << 6 | 9]) for n, kind in enumerate("IPBS")}
        assert syntax.look(kinds["I"], True) == (not interlaced)
        assert not syntax.look(kinds["P"], True)
        assert [k for k in "IPBS" if syntax.droppable(kinds[k])] == ([] if interlaced else ["B"])
        assert not syntax.droppable(kinds["B"] + kinds["P"])  # packed together
        for cut in range(1, 5):
            assert not syntax.look(kinds["I"][:cut], True)
            assert not syntax.droppable(kinds["B"][:cut])
        assert syntax.steady
        syntax.look(layer[:-1] + b"\0", True)
        assert not syntax.steady


def test_headers_that_end_early_leave_everything_to_the_decoder():
    for codec in ("h264", "hevc"):
        for size in range(1, 30):
            syntax = syntax_of(codec, b"\1" + b"\xff" * size)
            assert not syntax.droppable(b"\0\0\0\1\x01")
    assert type(syntax_of("some-codec", None)) is Syntax


SEQUENCE = SequenceSet(
    name=3,
    number_bits=4,
    order_bits=6,
    most=4,
    gaps=False,
    columns=80,
    rows=45,
    frames_only=True,
    colours=True,
    planes=False,
    special=False,
)
PLAIN = PictureSet(False, False, (1, 1), False, 0, False)


def head(kind, number, order, **said):
    said = {"bottom": 0, "lengths": (), "marked": False, "ended": ()} | said
    said = {"changes": tuple(() for _ in said["lengths"])} | said
    return Slice(kind, number, order, **said)


@pytest.mark.parametrize("bottom_order", [False, True])
def test_a_stand_in_says_what_the_picture_said(bottom_order):
    unit = picture_set(200, SEQUENCE, bottom_order=bottom_order)
    assert unit[0] == 0x68
    name, pictures = read_picture_set(payload(unit)[1:])
    assert (name, pictures.bottom_order, pictures.active) == (200, bottom_order, (1, 1))
    for number in range(16):
        for order in range(0, 64, 3):
            for ended in ((), (1,), (0, 5)):
                said = head("B", number, order, marked=bool(ended), ended=ended)
                unit = stand_in(said, 2, name, SEQUENCE, 80, bottom_order=bottom_order)
                assert unit[0] == 0x41 and not any(bytes((0, 0, byte)) in unit for byte in range(3))
                read = read_slice(unit, payload(unit)[1:], SEQUENCE, {name: pictures})
                assert (read.kind, read.number, read.order) == ("P", number, order)
                assert (read.marked, read.ended) == (said.marked, ended)


class Spoken:
    """A syntax whose packets are given as what they say: (head, reference, idr)."""

    def left_out(self, packets):
        return [data if wanted or data[1] else None for data, wanted in packets]


def followed(packets, sequence=SEQUENCE, lot=64):
    """The packets that References would decode of (head, reference, idr, wanted)."""
    references = References(sequence, {0: PLAIN}, Spoken())
    references._read = lambda data: ([data[0]], data[1], data[2])
    references._replaced = lambda data, head: "stand-in"
    packets = [(packet[:3], packet[3]) for packet in packets]
    given = []
    for start in range(0, len(packets), lot):
        given += references.choose(packets[start : start + lot])
    return [number for number, data in enumerate(given) if data is not None and data != "stand-in"]


def pyramid(lists, wanted):
    """I0 P4 B2 b1 b3 P8 B6 b5 b7 P12 I: with P-pictures that refer to `lists` references."""
    packets = []
    shown = [("I", 0), ("P", 4), ("B", 2), ("b", 1), ("b", 3), ("P", 8), ("B", 6), ("b", 5)]
    shown += [("b", 7), ("P", 12), ("I", 16), ("P", 20), ("P", 24), ("P", 28)]
    number = 0
    for kind, order in shown:
        lengths = {"I": (), "P": (lists,), "B": (1, 1), "b": (1, 1)}[kind]
        changes = tuple(() for _ in lengths)
        if kind == "P" and order in (8, 12) and lists == 1:
            changes = (((0, 1),),)  # the P before, not the B
        said = head(kind.upper(), number, 2 * order, lengths=lengths, changes=changes)
        packets.append((said, kind != "b", not order, order in wanted))
        number = (number + (kind != "b")) % 16
    return packets


def test_references_that_lead_to_no_wanted_picture():
    # The last four references are kept at the end.
    assert followed(pyramid(1, {12})) == [0, 1, 5, 9, 10, 11, 12, 13]
    assert followed(pyramid(1, {5})) == [0, 1, 5, 6, 7, 10, 11, 12, 13]
    assert followed(pyramid(1, {1})) == [0, 1, 2, 3, 10, 11, 12, 13]
    assert followed(pyramid(1, set())) == [0, 10, 11, 12, 13]
    # With lists of two, a P refers to the B before too.
    assert followed(pyramid(2, {12})) == [0, 1, 2, 5, 6, 9, 10, 11, 12, 13]


def test_lots_leave_out_no_more_than_the_whole():
    for wanted in ({12}, {5}, {1}, {24}):
        whole = followed(pyramid(1, wanted))
        for lot in range(1, 14):
            assert set(whole) <= set(followed(pyramid(1, wanted), lot=lot)), (wanted, lot)
    assert 2 not in followed(pyramid(1, {12}), lot=11)


def ps(*orders):
    """I and P-pictures in the order given, each of which refers to the one before."""
    said = [head("I", 0, 0)]
    said += [head("P", n % 16, order % 64, lengths=(1,)) for n, order in enumerate(orders, 1)]
    return [(each, True, not number, False) for number, each in enumerate(said)]


def b_picture(packets, order, lengths, **said):
    """Those and a wanted B-picture that nothing refers to."""
    number = len(packets) % 16
    picture = head("B", number, order % 64, lengths=lengths, **said)
    return [*packets, (picture, False, False, True)]


def needs(packets, sequence=SEQUENCE):
    """What the last picture of these may refer to."""
    references = References(sequence, {0: PLAIN}, Spoken())
    references._read = lambda data: ([data[0]], data[1], data[2])
    for data in packets:
        picture = references._follow(data[:3])
        references._at += 1
    return picture and sorted(picture.needs)


def test_the_lists_of_a_b_picture():
    four = ps(8, 16, 32)  # at 0, 8, 16 and 32
    assert needs(b_picture(four, 24, (1, 1))) == [2, 3]
    assert needs(b_picture(four, 24, (2, 1))) == [1, 2, 3]
    # Both lists are 3, 2, 1, 0, so the second begins with its second.
    assert needs(b_picture(four, 40, (1, 1))) == [2, 3]
    assert needs(b_picture(ps(), 40, (1, 1))) == [0]
    # One of the same time as a reference isn't allowed, and a decoder's affair.
    assert needs(b_picture(four, 16, (1, 1))) is None
    # The second list by number: 4 - 3 = 1.
    assert needs(b_picture(four, 24, (1, 1), changes=((), ((0, 2),)))) == [1, 2]


def test_the_order_of_pictures_wraps():
    far = ps(*range(8, 105, 8))  # 13 pictures after the first, the last shown at 104
    assert needs(b_picture(far, 100, (1, 1))) == [12, 13]
    assert needs(b_picture(far, 108, (1, 1))) == [12, 13]
    assert needs(b_picture(far, 92, (1, 1))) == [11, 12]


def test_references_that_a_picture_ends():
    packets = ps(8, 16)
    ending = head("P", 3, 32, lengths=(1,), marked=True, ended=(0,))  # 3 - 1 = 2
    packets += [(ending, True, False, False)]
    assert needs(b_picture(packets, 24, (1, 1))) == [1, 3]
    missing = head("P", 3, 32, lengths=(1,), marked=True, ended=(7,))
    assert needs([*ps(8, 16), (missing, True, False, False)]) is None
    full = [*ps(8, 16, 24), (head("P", 4, 32, lengths=(1,), marked=True), True, False, False)]
    assert needs(full) is None  # more are kept than the stream said


def test_streams_that_are_only_left_out_of_by_their_nal_units():
    def chooser(sequence=SEQUENCE, pictures=None, count=1):
        syntax = H264(b"")
        syntax._sequences = [sequence] * count
        syntax._pictures = pictures or {0: PLAIN}
        return syntax.chooser()

    assert isinstance(chooser().__self__, References)
    for said in ({"order_bits": 0}, {"gaps": True}, {"planes": True}):
        assert isinstance(chooser(replace(SEQUENCE, **said)).__self__, H264)
    assert isinstance(chooser(count=2).__self__, H264)
    mixed = {0: PLAIN, 1: replace(PLAIN, bottom_order=True)}
    assert isinstance(chooser(pictures=mixed).__self__, H264)


def test_what_is_not_modelled_leaves_all_references_in():
    def heads(packets):
        return [number for number, packet in enumerate(packets) if packet[1] or packet[3]]

    packets = pyramid(1, {12})
    missing = packets[:5] + packets[6:]  # a gap in the frame numbers
    assert followed(missing) == heads(missing)
    late = packets[1:]  # no IDR picture to begin with
    assert followed(late) == heads(late)
    last = head("P", 9, 56, lengths=(1,), changes=(((0, 9),),))  # a frame that isn't kept
    unknown = [*packets[:-1], (last, True, False, False)]
    assert followed(unknown) == heads(unknown)
