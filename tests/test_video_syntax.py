"""Headers read by hand: what they say, and that broken ones say nothing."""

import random

import pytest

from tempo_fast.video.packets.av1 import Av1
from tempo_fast.video.packets.bits import Bits
from tempo_fast.video.packets.codecs import syntax_of
from tempo_fast.video.packets.h264 import H264, _is_exact_recovery
from tempo_fast.video.packets.hevc import Hevc
from tempo_fast.video.packets.nal import _annex_b, _with_lengths
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
