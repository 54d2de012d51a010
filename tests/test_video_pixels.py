"""Frames whose pixels lie four bytes apart: the same colours, and the same once resized."""

import itertools

import numpy as np
import pytest

pytest.importorskip("av")

import av
from av.video.reformatter import VideoReformatter

from tempo_fast.options import OpenOptions
from tempo_fast.video import load_frames, open_source, pillow, pixels, resize
from tempo_fast.video.pillow import _lent
from tempo_fast.video.pixels import to_pixels
from tempo_fast.video.resize import resize_frame
from tempo_fast.video.segments import SegmentReader

from .test_video_decode import make_clip
from .test_video_exact import VARIANTS, write

SIZES = [(16, 16), (48, 2), (64, 50), (112, 96), (640, 362), (848, 480), (1280, 720), (1920, 1080)]
# BT.709, none said, BT.601 (two names), SMPTE 240M, BT.2020; none said, limited, full.
COLOURS = list(itertools.product((1, 2, 5, 6, 7, 9), (0, 1, 2)))


def noise(kind, width, height, colours=(2, 0)):
    frame = av.VideoFrame(width, height, kind)
    values = np.random.default_rng(width)
    for plane in frame.planes:
        plane.update(values.integers(0, 256, plane.buffer_size, np.uint8).tobytes())
    frame.colorspace, frame.color_range = colours
    return frame


def is_spaced(array):
    return array.strides[1:] == (4, 1)


@pytest.mark.parametrize("kind", ["yuv420p", "yuvj420p"])
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_the_colours_are_those_of_packed_pixels(kind, width, height):
    reformatter = VideoReformatter()
    for colours in COLOURS:
        frame = noise(kind, width, height, colours)
        found = to_pixels(frame, (height, width), reformatter, True)
        assert found.shape == (height, width, 3) and found.dtype == np.uint8
        assert np.array_equal(found, to_pixels(frame)), colours
        assert np.array_equal(found, frame.to_ndarray(format="rgb24")), colours


@pytest.mark.parametrize(
    ("kind", "width"),
    [
        ("yuv420p", 130),  # its last columns would differ
        ("yuv420p", 33),
        ("yuv422p", 64),
        ("yuv444p", 64),
        ("yuv420p10le", 64),
        ("nv12", 64),
        ("gbrp", 64),
        ("gray", 64),
        ("rgb24", 64),
    ],
)
def test_other_frames_stay_packed(kind, width):
    frame = noise(kind, width, 34)
    found = to_pixels(frame, spaced=True)
    assert found.flags.c_contiguous
    assert np.array_equal(found, frame.to_ndarray(format="rgb24"))


def test_a_frame_that_is_scaled_stays_packed():
    frame = noise("yuv420p", 64, 64)
    found = to_pixels(frame, (32, 48), None, True)
    assert found.flags.c_contiguous and np.array_equal(found, to_pixels(frame, (32, 48)))


def test_a_processor_whose_conversions_differ_has_packed_pixels(monkeypatch):
    frame = noise("yuv420p", 64, 64)
    monkeypatch.setattr(pixels, "_tried", lambda *_: False)
    assert to_pixels(frame, spaced=True).flags.c_contiguous
    monkeypatch.setattr(pixels, "_tried", lambda *_: True)
    assert is_spaced(to_pixels(frame, spaced=True))


def test_conversions_that_differ_are_noticed(monkeypatch):
    assert pixels._tried.__wrapped__("yuv420p", 64, 1, 1) == pixels._tried("yuv420p", 64, 1, 1)
    convert = pixels._spaced

    def off_by_one(reformatter, frame):
        found = convert(reformatter, frame).copy()
        found[-1, -1, 2] ^= 1
        return found

    monkeypatch.setattr(pixels, "_spaced", off_by_one)
    assert not pixels._tried.__wrapped__("yuv420p", 64, 1, 1)


@pytest.mark.parametrize("lends", [True, False])
@pytest.mark.parametrize(
    ("height", "width"),
    [(720, 1280), (1080, 1920), (1280, 720), (1000, 1000), (64, 192), (16, 16), (512, 512)],
)
def test_resized_they_are_the_same(monkeypatch, height, width, lends):
    """Lent to a Pillow that takes them, and packed for one that doesn't."""
    monkeypatch.setattr(resize, "LENDS", lends and pillow.LENDS)
    quads = np.random.default_rng(0).integers(0, 256, (height, width, 4), np.uint8)
    frame = quads[:, :, :3]
    before = quads.copy()
    found = resize_frame(frame)
    assert np.array_equal(found, resize_frame(np.ascontiguousarray(frame)))
    assert np.array_equal(quads, before)


@pytest.mark.skipif(not pillow.LENDS, reason="Pillow 13 can't be lent pixels")
def test_an_image_in_the_memory_of_pixels():
    quads = np.random.default_rng(0).integers(0, 256, (600, 700, 4), np.uint8)
    plain = np.ascontiguousarray(quads[:, :, :3])
    assert np.array_equal(np.asarray(_lent(quads[:, :, :3]).resize((700, 600))), plain)
    smaller = quads[:, :640, :3]  # each row longer than its pixels
    assert np.array_equal(np.asarray(_lent(smaller).resize((640, 600))), plain[:, :640])
    # Pixels packed, channels turned round, the last byte or the first rows not theirs, rows upside
    # down, and memory in pieces.
    for frame in (
        plain,
        quads[:, :, 2::-1],
        quads[:, :, 1:],
        quads[10:, :, :3],
        quads[::-1, :, :3],
        np.asfortranarray(quads)[:, :, :3],
    ):
        assert _lent(frame) is None
        assert np.array_equal(resize_frame(frame), resize_frame(np.ascontiguousarray(frame)))


@pytest.mark.parametrize("lends", [True, False])
def test_segments_of_a_file_hold_the_pixels_that_a_decoder_gives(tmp_path, monkeypatch, lends):
    monkeypatch.setattr("tempo_fast.video.decode.LENDS", lends)
    monkeypatch.setattr("tempo_fast.video.decode.usable_cores", lambda: 2)
    path = make_clip(tmp_path / "clip.mp4", g="12")
    frames, _ = load_frames(path, video_fps=30)
    seen = []

    def kept(frame):
        seen.append(is_spaced(frame))
        return frame

    with open_source(path, OpenOptions(video_fps=30)) as source:
        found = np.concatenate([part.numpy() for part in SegmentReader(source, 4, 4, resize=kept)])
    spaced = lends and pixels._tried("yuv420p", 192, 2, 0)
    assert seen == [spaced] * len(frames)
    assert np.array_equal(found, frames)
    with open_source(path, OpenOptions(video_fps=30)) as source:
        assert all(frame.flags.c_contiguous for frame in source)


@pytest.mark.parametrize("name", ["plain.mp4", "interlaced.mp4"])
def test_decoded_frames_give_the_same_colours(tmp_path, name):
    path = write(tmp_path / name, *VARIANTS[name])
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))[:24]
    assert any(frame.interlaced_frame for frame in frames) == (name == "interlaced.mp4")
    for frame in frames:
        found = to_pixels(frame, spaced=True)
        assert is_spaced(found) == pixels._is_twin(frame)
        assert np.array_equal(found, to_pixels(frame))
