"""Headers read by hand: what they say, and that broken ones say nothing."""

import random

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
    blocks=3600,
    frames_only=True,
    colours=True,
    planes=False,
)
PLAIN = PictureSet(False, False, (1, 1), False, 0, False)


def head(kind, number, order, **said):
    said = {"bottom": 0, "lengths": (), "changes": (), "marked": False, "ended": ()} | said
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
                unit = stand_in(said, 2, name, SEQUENCE, bottom_order)
                assert unit[0] == 0x41 and not any(bytes((0, 0, byte)) in unit for byte in range(3))
                read = read_slice(unit, payload(unit)[1:], SEQUENCE, {name: pictures})
                assert (read.kind, read.number, read.order) == ("P", number, order)
                assert (read.marked, read.ended) == (said.marked, ended)


class Unsplit:
    """Packets that are given as what they say: (head, reference, idr)."""

    def droppable(self, data):
        return not data[1]


def followed(packets, sequence=SEQUENCE):
    """The packets that References would decode of (head, reference, idr, wanted)."""
    references = References(sequence, {0: PLAIN}, Unsplit())
    references._read = lambda data: ([data[0]], data[1], data[2])
    references._replaced = lambda data, head: "stand-in"
    given = references.choose([(packet[:3], packet[3]) for packet in packets])
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


def test_noise_after_good_headers_is_given_to_the_decoder():
    noise = random.Random(5)
    sps = b"\x67\x42\0\x1e\xab\x40"
    pps = b"\x68\xce\x38\x80"
    syntax = H264(b"")
    syntax.look(b"\0\0\0\1" + b"\0\0\0\1".join((sps, pps, b"\x65\x88\x84")), True)
    for _ in range(50):
        kinds = (0x65, 0x41, 0x61, 0x06)
        lot = [
            (b"\0\0\1" + bytes([noise.choice(kinds)]) + noise.randbytes(30), noise.random() < 0.3)
            for _ in range(12)
        ]
        for (data, wanted), given in zip(lot, syntax.chooser()(lot), strict=True):
            assert given is data or not wanted
