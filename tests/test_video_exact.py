"""The planned decoding against a plain one of every frame, bit for bit."""

import random
from contextlib import closing
from fractions import Fraction

import numpy as np
import pytest

pytest.importorskip("av")

import av

from tempo_fast.options import OpenOptions
from tempo_fast.video.damage import Damage
from tempo_fast.video.decode import VideoFile
from tempo_fast.video.packets.h264 import H264
from tempo_fast.video.plan import plan
from tempo_fast.video.scan import scan

COUNT = 96
OPEN_HEVC = "open-gop=1:keyint=24:min-keyint=24:scenecut=0:bframes=4:log-level=none"
VARIANTS = {
    "plain.mp4": ("libx264", {"g": "24", "bf": "3"}),
    "single.mp4": ("libx264", {"g": "600", "bf": "2"}),
    "no_b.mkv": ("libx264", {"g": "12", "bf": "0"}),
    "open.mp4": ("libx264", {"g": "24", "bf": "3", "x264-params": "open-gop=1"}),
    "open.mkv": ("libx264", {"g": "24", "bf": "3", "x264-params": "open-gop=1:b-pyramid=strict"}),
    "open.ts": ("libx264", {"g": "24", "bf": "3", "x264-params": "open-gop=1"}),
    "refresh.mp4": ("libx264", {"g": "24", "x264-params": "intra-refresh=1"}),
    "slices.ts": ("libx264", {"g": "24", "bf": "3", "x264-params": "slices=3:aud=1"}),
    "interlaced.mp4": ("libx264", {"g": "24", "bf": "2", "flags": "+ildct+ilme"}),
    "deep.mp4": ("libx264", {"g": "60", "bf": "7", "refs": "4", "preset": "slow"}),
    "shallow.mp4": ("libx264", {"g": "60", "bf": "3", "preset": "veryfast"}),
    "shallow_strict.ts": (
        "libx264",
        {"g": "60", "bf": "5", "refs": "1", "x264-params": "b-pyramid=strict"},
    ),
    "shallow_slices.mkv": (
        "libx264",
        {"bf": "3", "refs": "1", "x264-params": "slices=3:weightp=2"},
    ),
    "shallow_cavlc.mp4": ("libx264", {"g": "40", "bf": "3", "refs": "1", "coder": "0"}),
    "shallow_temporal.mp4": ("libx264", {"bf": "3", "refs": "1", "x264-params": "direct=temporal"}),
    "shallow_open.mp4": ("libx264", {"g": "24", "refs": "2", "x264-params": "open-gop=1"}),
    "h264.avi": ("libx264", {"g": "24", "bf": "0"}),
    "hevc.mp4": ("libx265", {"x265-params": "keyint=24:bframes=3:open-gop=0:log-level=none"}),
    "hevc_open.mkv": ("libx265", {"x265-params": OPEN_HEVC}),
    "hevc_open.ts": ("libx265", {"x265-params": OPEN_HEVC}),
    "hevc_layers.mp4": ("libx265", {"x265-params": OPEN_HEVC + ":temporal-layers=1"}),
    "vp8.webm": ("libvpx", {"g": "24", "deadline": "realtime", "cpu-used": "8"}),
    "vp9.webm": ("libvpx-vp9", {"g": "24", "cpu-used": "8", "lag-in-frames": "12"}),
    "vp9.mp4": ("libvpx-vp9", {"g": "24", "deadline": "realtime", "cpu-used": "8"}),
    "av1.mp4": ("libsvtav1", {"g": "32", "preset": "12"}),
    "av1.webm": ("libsvtav1", {"g": "24", "preset": "12", "svtav1-params": "irefresh-type=1"}),
    "mpeg4.mp4": ("mpeg4", {"g": "24", "bf": "2"}),
    "mpeg4.avi": ("mpeg4", {"g": "24", "bf": "2"}),
    "mpeg4_interlaced.mkv": ("mpeg4", {"g": "24", "bf": "2", "flags": "+ildct+ilme"}),
    "mpeg2.ts": ("mpeg2video", {"g": "12", "bf": "2"}),
    "mjpeg.mkv": ("mjpeg", {}),
    "ffv1.mkv": ("ffv1", {"g": "12"}),
}
# Avi has no times; interlaced MPEG-4 and codecs that aren't known can't be entered in the middle.
PLANLESS = {"h264.avi", "mpeg4.avi", "mpeg4_interlaced.mkv", "ffv1.mkv"}
FORMATS = {
    "odd444.mp4": ("libx264", {"g": "24", "bf": "3"}, "yuv444p", (75, 53)),
    "full.mp4": ("libx264", {"g": "24", "bf": "3"}, "yuvj420p", (96, 64)),
    "bt709.mp4": ("libx264", {"g": "24", "x264-params": "colormatrix=bt709"}, "yuv420p", (96, 64)),
    "ten.mkv": ("libx264", {"g": "24", "bf": "3"}, "yuv420p10le", (96, 64)),
    "hevc_ten.mp4": ("libx265", {"x265-params": OPEN_HEVC}, "yuv420p10le", (96, 64)),
    "vp9_444.webm": ("libvpx-vp9", {"g": "24", "cpu-used": "8"}, "yuv444p", (75, 53)),
    "av1_ten.mkv": ("libsvtav1", {"g": "24", "preset": "12"}, "yuv420p10le", (96, 66)),
    # Where colours have half the size, a picture of H.264 or HEVC is never odd.
    "odd_vp8.webm": ("libvpx", {"g": "24", "deadline": "realtime"}, "yuv420p", (37, 53)),
    "odd_vp9.webm": ("libvpx-vp9", {"g": "24", "cpu-used": "8"}, "yuv420p", (37, 53)),
    "odd_av1.mp4": ("libsvtav1", {"g": "24", "preset": "12"}, "yuv420p", (37, 53)),
    "odd_mpeg4.mp4": ("mpeg4", {"g": "24", "bf": "2"}, "yuv420p", (37, 53)),
    "odd_mpeg2.ts": ("mpeg2video", {"g": "12", "bf": "2"}, "yuv420p", (37, 53)),
}


def draw(number, width, height):
    """Something that moves and changes, so that frames lean on each other."""
    y, x = np.mgrid[:height, :width]
    grain = np.random.default_rng(number % 5).integers(0, 12, (height, width))
    planes = [
        128 + 60 * np.sin((x + 3 * number) / 9) + 40 * np.cos((y - 2 * number) / 7),
        (x * 2 + number * 5) % 256,
        np.where((x - number * 2) % 40 < 14, 220, 40),
    ]
    return np.clip(np.stack(planes, -1) + grain[..., None], 0, 255).astype(np.uint8)


def write(path, codec, options, pix_fmt="yuv420p", size=(96, 64), ticks=None, count=COUNT):
    """A file of COUNT frames at 25 a second, or shown at `ticks` hundredths of a second."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=25, options={"sc_threshold": "0", **options})
        stream.width, stream.height = size
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else pix_fmt
        stream.codec_context.time_base = Fraction(1, 100 if ticks else 25)
        for number in range(count):
            frame = av.VideoFrame.from_ndarray(draw(number, *size), format="rgb24")
            frame = frame.reformat(format=stream.pix_fmt, dst_colorspace="ITU709")
            frame.pts = ticks[number] if ticks else number
            frame.time_base = stream.codec_context.time_base
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def plain(path):
    """Every frame that a decoder gives, with its time: one thread, nothing skipped."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        return [(frame.pts, frame.to_ndarray(format="rgb24")) for frame in container.decode(stream)]


def planned(source, numbers):
    """The frames `numbers` (rising) of a source by its planned way alone."""
    source._wanted = source._index.times[np.array(numbers)]
    packets, syntax = source._index.packets, source._index.syntax
    runs = plan(packets, np.unique(source._wanted), paired=syntax.paired)
    with closing(source._planned(runs)) as frames:
        return list(frames)


def compare(path, planless=False, **options):
    frames = plain(path)
    source = VideoFile(path, OpenOptions(video_fps=1000, max_frames=len(frames), **options))
    assert source.count == len(frames)
    for ours, (_, theirs) in zip(source, frames, strict=True):
        assert (ours == theirs).all()
    if planless:
        assert not source._runs
        return
    assert source._index.times.tolist() == [time for time, _ in frames]
    choose = random.Random(path.name)
    subsets = [[number] for number in choose.sample(range(len(frames)), 8)]
    # Between a frame and a far one there is most to be left out.
    subsets += [[number, len(frames) - 1] for number in choose.sample(range(len(frames) - 1), 16)]
    subsets += [sorted(choose.choices(range(len(frames)), k=k)) for k in (2, 5, 5, 9, 17, 40)]
    for numbers in subsets:
        chosen = planned(source, numbers)
        assert len(chosen) == len(numbers)
        for ours, number in zip(chosen, numbers, strict=True):
            assert (ours == frames[number][1]).all(), (number, numbers)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_frame_and_any_frames(tmp_path, name):
    compare(write(tmp_path / name, *VARIANTS[name]), name in PLANLESS)


@pytest.mark.parametrize("name", ["shallow.mp4", "open.ts"])
def test_the_same_where_damage_would_be_skipped(tmp_path, name):
    compare(write(tmp_path / name, *VARIANTS[name]), on_error="skip")


@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_parameter_sets_that_are_repeated_with_every_picture(tmp_path, on_error):
    whole = write(tmp_path / "whole.ts", *VARIANTS["shallow.mp4"])
    path = tmp_path / "repeated.ts"
    with av.open(str(whole)) as given, av.open(str(path), "w") as out:
        stream = given.streams.video[0]
        copy = out.add_stream_from_template(stream)
        sets = b""
        for packet in given.demux(stream):
            data = bytes(packet)
            if not data:
                continue
            units = [b"\0\0\1" + unit for unit in data.split(b"\0\0\1")[1:]]
            sets = sets or b"".join(unit for unit in units if unit[3] & 31 == 8)
            at = data.index(next(unit for unit in units if unit[3] & 31 in (1, 5)))
            other = av.Packet(data[:at].rstrip(b"\0") + b"\0" + sets + b"\0" + data[at:])
            other.pts, other.dts, other.time_base = packet.pts, packet.dts, packet.time_base
            other.is_keyframe = packet.is_keyframe
            other.stream = copy
            out.mux(other)
    assert path.read_bytes().count(sets.rstrip(b"\0")) >= COUNT
    compare(path, on_error=on_error)


@pytest.mark.parametrize("name", FORMATS)
def test_sizes_and_pixel_formats(tmp_path, name):
    compare(write(tmp_path / name, *FORMATS[name]))


VARIABLE = ["plain.mp4", "open.mkv", "open.ts", "hevc_open.mkv", "hevc_open.ts", "vp9.webm"]


@pytest.mark.parametrize("name", [*VARIABLE, "vp8.webm", "av1.webm", "mpeg4.mp4", "mjpeg.mkv"])
def test_variable_frame_rate(tmp_path, name):
    ticks = np.cumsum(random.Random(1).choices([2, 4, 4, 4, 7, 31], k=COUNT)).tolist()
    compare(write(tmp_path / name, *VARIANTS[name], ticks=ticks))


def test_a_file_that_begins_with_frames_that_lean_on_lost_ones(tmp_path):
    whole = write(tmp_path / "whole.ts", *VARIANTS["open.ts"])
    path = tmp_path / "joined.ts"
    with av.open(str(whole)) as given, av.open(str(path), "w") as out:
        stream = given.streams.video[0]
        copy = out.add_stream_from_template(stream)
        packets = [packet for packet in given.demux(stream) if packet.size]
        entries = [n for n, packet in enumerate(packets) if packet.is_keyframe]
        for packet in packets[entries[1] :]:
            packet.stream = copy
            out.mux(packet)
    frames = plain(path)
    source = VideoFile(path, OpenOptions(video_fps=1000, max_frames=COUNT))
    times = source._wanted
    assert times[0] < frames[0][0]  # its first frames can't be decoded
    shown = np.searchsorted([time for time, _ in frames], times, side="right") - 1
    read = list(source)
    assert len(read) == source.count > len(frames)
    for ours, number in zip(read, shown.clip(0), strict=True):
        assert (ours == frames[number][1]).all()


@pytest.mark.parametrize(
    ("name", "share"),  # of its packets, that may at most be decoded for one frame in twelve
    [
        ("plain.mp4", 0.6),
        ("shallow.mp4", 0.4),
        ("open.ts", 0.7),
        ("slices.ts", 0.6),
        ("hevc.mp4", 0.7),
        ("hevc_open.ts", 0.7),
        ("av1.mp4", 0.75),
        ("mpeg4.mp4", 0.6),
        ("mjpeg.mkv", 0.1),
        ("vp9.webm", 0.9),
    ],
)
def test_what_is_not_needed_is_not_decoded(tmp_path, name, share):
    path = write(tmp_path / name, *VARIANTS[name])
    source = VideoFile(path, OpenOptions(video_fps=25 / 12))
    wanted = set(source._wanted.tolist())
    assert len(wanted) == COUNT // 12
    fed = 0
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        for run in source._runs:
            lot = [(bytes(packet), packet.pts in wanted) for packet in packets[run.start : run.end]]
            given = source._index.syntax.chooser()(lot)
            fed += sum(data is own for data, (own, _) in zip(given, lot, strict=True))
    assert fed <= share * COUNT
    source = VideoFile(path, OpenOptions(video_fps=25, clip=(3.0, 3.1), min_frames=1))
    assert sum(run.end - run.start for run in source._runs) <= COUNT // 2


def rewritten(path, target, change):
    """The file with `change(number, data)` in the place of every packet's data."""
    with av.open(str(path)) as given, av.open(str(target), "w") as out:
        stream = given.streams.video[0]
        copy = out.add_stream_from_template(stream)
        for number, packet in enumerate(given.demux(stream)):
            if packet.size:
                other = av.Packet(change(number, bytes(packet)))
                other.pts, other.dts, other.time_base = packet.pts, packet.dts, packet.time_base
                other.duration, other.is_keyframe = packet.duration, packet.is_keyframe
                other.stream = copy
                out.mux(other)
    return target


@pytest.mark.parametrize(
    ("build", "options", "pix_fmt", "planless"),
    [
        (b"148", {"qp": "0"}, "yuv420p", True),
        (b"148", {"crf": "18"}, "yuv444p", True),
        (b"148", {"crf": "18"}, "yuv420p", False),
        (b"151", {"qp": "0"}, "yuv420p", False),
        (b"030", {"bf": "3"}, "yuv420p", True),
    ],
)
def test_old_encoders_whose_mistakes_are_undone(tmp_path, build, options, pix_fmt, planless):
    """They name themselves in the first packet alone, and the decoder goes by that in all."""
    path = write(tmp_path / "old.mp4", "libx264", {"g": "12", **options}, pix_fmt)
    data, name = path.read_bytes(), b"x264 - core "
    assert data.count(name) == 1
    at = data.index(name) + len(name)
    path.write_bytes(data[:at] + build + data[at + len(build) :])
    if pix_fmt == "yuv444p":  # so undone, a picture that has no mistake is damaged
        assert not VideoFile(path, OpenOptions())._runs
    else:
        compare(path, planless)


@pytest.mark.parametrize("kind", ["mkv", "mp4"])
def test_an_mpeg4_encoder_that_names_itself_once(tmp_path, kind):
    path = write(tmp_path / f"whole.{kind}", "mpeg4", {"g": "12", "bf": "0"})
    name = b"\0\0\1\xb2XviD0050"
    compare(
        rewritten(
            path, tmp_path / f"named.{kind}", lambda number, data: (b"" if number else name) + data
        ),
        planless=True,
    )


@pytest.mark.parametrize("tables", [(0xDB, 0xC4), (0xDB,), (0xC4,)])
def test_jpegs_that_take_their_tables_from_the_first(tmp_path, tables):
    def bare(number, data):
        kept, at = data[:2], 2
        while data[at + 1] != 0xDA:
            end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
            kept += b"" if data[at + 1] in tables else data[at:end]
            at = end
        return kept + data[at:] if number else data

    path = write(tmp_path / "whole.mkv", "mjpeg", {})
    compare(rewritten(path, tmp_path / "bare.mkv", bare), planless=True)


def test_a_palette_that_comes_with_the_first_frame(tmp_path):
    path = tmp_path / "palette.mov"
    palette = np.random.default_rng(7).integers(0, 255, (256, 4)).astype(np.uint8)
    with av.open(str(path), "w") as out:
        stream = out.add_stream("rawvideo", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "pal8"
        for number in range(COUNT):
            pixels = np.ascontiguousarray(draw(number, 96, 64)[..., 0])
            frame = av.VideoFrame.from_ndarray((pixels, palette), format="pal8")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    compare(path, planless=True)


def test_vp8_frames_that_are_never_shown(tmp_path):
    path = write(tmp_path / "whole.webm", *VARIANTS["vp8.webm"])
    hide = {10, 30, 31, COUNT - 1}

    def change(number, data):
        return bytes([data[0] & ~16]) + data[1:] if number in hide else data

    hidden = rewritten(path, tmp_path / "hidden.webm", change)
    assert len(plain(hidden)) == COUNT - len(hide)
    compare(hidden)


@pytest.mark.parametrize("name", ["shallow.mp4", "shallow_cavlc.mp4", "shallow_strict.ts"])
def test_no_rows_are_made_up_for_stand_ins(tmp_path, monkeypatch, name):
    """FFmpeg flags a picture whose missing macroblocks it has made up, which takes time."""
    source = VideoFile(write(tmp_path / name, *VARIANTS[name]), OpenOptions())
    flagged = []
    come = Damage.come

    def watched(self, frame, **known):
        flagged.append(frame.is_corrupt)
        return come(self, frame, **known)

    monkeypatch.setattr(Damage, "come", watched)
    with_options = planned(source, [20, 45, 90])
    assert not any(flagged)
    flagged.clear()
    monkeypatch.setattr(H264, "chooser_options", lambda self: {})
    without = planned(source, [20, 45, 90])
    assert any(flagged)
    assert all((a == b).all() for a, b in zip(with_options, without, strict=True))


@pytest.mark.parametrize(
    ("cut", "size", "one_row"),
    [
        ("slices=2", (96, 128), True),
        ("slices=4", (96, 64), False),  # a row each
        ("slice-max-size=900", (192, 192), False),  # never the same
    ],
)
def test_stand_ins_of_one_row_where_no_damaged_picture_looks_like_one(tmp_path, cut, size, one_row):
    made = {"g": "24", "bf": "3", "refs": "1", "x264-params": cut}
    path = write(tmp_path / "sliced.mkv", "libx264", made, size=size)
    assert bool(scan(path).syntax.chooser_options()) == one_row
    compare(path)
