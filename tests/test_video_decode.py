import os
import struct
import threading
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

pytest.importorskip("av")

import av

from tempo_fast.errors import DamageWarning, VideoError
from tempo_fast.options import OpenOptions
from tempo_fast.video import load_frames, open_source
from tempo_fast.video.scan import scan
from tempo_fast.video.segments import SegmentReader
from tempo_fast.video.sequential import pick

GOLDEN = Path(__file__).parent / "golden"
BITS = 12


def draw(number, height=64, width=192):
    """A frame with its number as a barcode of 16-pixel bars, lowest bit first."""
    frame = np.full((height, width, 3), 90, np.uint8)
    bits = number >> np.arange(BITS) & 1
    frame[:16] = np.repeat(np.where(bits, 235, 16), 16)[None, :, None]
    return frame


def read(frame):
    bars = frame[4:12, : BITS * 16].astype(float).mean((0, 2)).reshape(BITS, 16)[:, 4:12].mean(1)
    return int((bars > 128) @ (1 << np.arange(BITS)))


def make_clip(path, count=60, rate=30, codec="libx264", container=None, **options):
    with av.open(str(path), "w", options=container or {}) as out:
        stream = out.add_stream(codec, rate=rate, options=options)
        stream.width, stream.height, stream.pix_fmt = 192, 64, "yuv420p"
        for number in range(count):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(draw(number), format="rgb24")))
        out.mux(stream.encode(None))
    return path


def remux(source, target, shift=0, drop=()):
    """Copy packets, times moved `shift` frames back; packets numbered in `drop` are left out."""
    options = {"avoid_negative_ts": "disabled"}
    with av.open(str(source)) as given, av.open(str(target), "w", options=options) as out:
        stream = given.streams.video[0]
        copy = out.add_stream_from_template(stream)
        step = round(1 / (stream.average_rate * stream.time_base))
        for number, packet in enumerate(given.demux(stream)):
            if packet.dts is None or number in drop:
                continue
            packet.pts -= shift * step
            packet.dts -= shift * step
            packet.stream = copy
            out.mux(packet)
    return target


SPARSE = {"g": "48", "bf": "3", "sc_threshold": "0"}


def test_golden_clip():
    golden = load_file(GOLDEN / "clip.safetensors")
    frames, real_fps = load_frames(GOLDEN / "clip.mp4")
    assert real_fps == golden["real_fps"].item()
    assert list(frames.shape) == golden["shape"].tolist()
    numbers = [read(frame) for frame in frames]
    assert numbers == golden["barcode"].tolist() == golden["indices"].tolist()
    cells = frames[:, :176].astype(np.float64).reshape(30, 8, 22, 8, 40, 3)  # 180 rows: 4 left over
    difference = torch.from_numpy(cells.mean((2, 4))) - golden["grid8x8"]
    assert difference.abs().max() <= 2.0


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("sparse.mp4", SPARSE),
        ("sparse.mkv", SPARSE),
        ("sparse.ts", SPARSE),
        ("sparse.avi", SPARSE),  # no presentation times: counted
        ("open.mp4", {**SPARSE, "x264-params": "open-gop=1"}),
        ("mpeg4.avi", {"codec": "mpeg4", "bf": "2", "g": "20"}),
        ("vp9.webm", {"codec": "libvpx-vp9", "g": "40"}),
        ("raw.h264", {**SPARSE, "bf": "0"}),  # no times at all
    ],
)
def test_every_frame_of_every_container(tmp_path, name, options):
    path = make_clip(tmp_path / name, count=100, rate=25, **options)
    frames, real_fps = load_frames(path, video_fps=25)
    assert [read(frame) for frame in frames] == list(range(100))
    assert real_fps == 25
    frames, real_fps = load_frames(path, video_fps=5)
    assert [read(f) for f in frames] == np.rint(np.linspace(0, 99, 20)).astype(int).tolist()


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts", "a.avi", "open.mp4"])
@pytest.mark.parametrize("first", [0, 1, 47, 48, 49, 50, 95, 96, 97, 119])
def test_clip_is_exact_around_keyframes(tmp_path, name, first):
    extra = {"x264-params": "open-gop=1"} if name == "open.mp4" else {}
    path = make_clip(tmp_path / name, count=120, rate=25, **SPARSE, **extra)
    clip = ((first + 0.5) / 25, (first + 3.5) / 25)
    frames, _ = load_frames(path, video_fps=25, min_frames=1, clip=clip)
    assert [read(frame) for frame in frames] == list(range(first, min(first + 4, 120)))


def test_more_samples_than_frames_repeat(tmp_path):
    path = make_clip(tmp_path / "short.mp4", count=3, bf="2")
    frames, real_fps = load_frames(path, min_frames=8)
    assert [read(f) for f in frames] == np.rint(np.linspace(0, 2, 8)).astype(int).tolist()
    assert real_fps == pytest.approx(80)


def test_one_frame(tmp_path):
    frames, real_fps = load_frames(make_clip(tmp_path / "one.mp4", count=1))
    assert frames.shape == (1, 64, 192, 3) and real_fps == 30


def test_variable_frame_rate(tmp_path):
    path = make_clip(tmp_path / "full.mp4", count=60, bf="0", g="60")
    kept = remux(path, tmp_path / "gaps.mkv", drop=set(range(50, 60)))
    assert [read(f) for f in load_frames(kept, video_fps=30)[0]] == list(range(50))


def test_edit_list_hides_frames_but_is_no_damage(tmp_path):
    path = make_clip(tmp_path / "whole.mp4", **SPARSE)
    cut = remux(path, tmp_path / "cut.mp4", shift=20)
    frames, real_fps = load_frames(cut, video_fps=30)
    assert [read(frame) for frame in frames] == list(range(20, 60)) and real_fps == 30
    data = bytearray(cut.read_bytes())
    duration = data.index(b"elst") + 12  # after the tag, version and flags, and count
    (milliseconds,) = struct.unpack_from(">I", data, duration)
    struct.pack_into(">I", data, duration, milliseconds // 2)
    cut.write_bytes(data)
    frames, _ = load_frames(cut, video_fps=30)
    assert [read(frame) for frame in frames] == list(range(20, 20 + len(frames)))
    assert 20 <= len(frames) < 40


def transposed(frame):
    return frame.swapaxes(0, 1)


@pytest.mark.parametrize(
    ("matrix", "back"),  # of a QuickTime track header; what undoes it
    [
        ((0, 1, -1, 0), lambda frame: np.rot90(frame, 1)),  # turned clockwise
        ((-1, 0, 0, -1), lambda frame: np.rot90(frame, 2)),
        ((0, -1, 1, 0), lambda frame: np.rot90(frame, 3)),
        ((-1, 0, 0, 1), np.fliplr),
        ((1, 0, 0, -1), np.flipud),
        ((0, 1, 1, 0), transposed),
        ((0, -1, -1, 0), lambda frame: transposed(np.rot90(frame, 2))),
        ((0, 0, 0, 0), np.asarray),
    ],
)
def test_a_turned_video_is_upright(tmp_path, matrix, back):
    path = make_clip(tmp_path / "turned.mp4")
    data = bytearray(path.read_bytes())
    a, b, c, d = (value * 65536 for value in matrix)
    struct.pack_into(">5i", data, data.index(b"tkhd") + 44, a, b, 0, c, d)
    path.write_bytes(data)
    with open_source(path, OpenOptions()) as source:
        assert (source.height, source.width) == ((192, 64) if matrix[1] else (64, 192))
        frames = list(source)
    assert all(frame.shape == (source.height, source.width, 3) for frame in frames)
    assert [read(back(frame)) for frame in frames] == [0, 20, 39, 59]


def test_two_readings_give_the_same_and_close_is_final():
    source = open_source(str(GOLDEN / "clip.mp4"), OpenOptions(max_frames=5))
    first, second = np.stack(list(source)), np.stack(list(source))
    assert (first == second).all() and len(first) == source.count == 5
    assert source.decode_seconds > 0 and not source.is_image
    source.close()
    source.close()
    with pytest.raises(VideoError, match="closed"):
        next(iter(source))


def test_pick_takes_the_frame_on_show_and_no_more_than_needed():
    frames = iter([(2, "a"), (3, "b"), (7, "c"), (9, "d"), (11, "e")])
    assert list(pick(frames, [0, 2, 3, 3, 5, 7, 8, 9])) == list("aabbbccd")
    assert next(frames) == (11, "e")
    assert list(pick([(0, "a"), (1, "b")], [0, 1, 2])) == ["a", "b"]
    assert list(pick([], [0])) == []


def cut_file(path, share):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


def test_no_such_file(tmp_path):
    with pytest.raises(VideoError, match="no such file"):
        load_frames(tmp_path / "missing.mp4")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_refused_rather_than_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(VideoError, match="is no file: a pipe"):
        load_frames(tmp_path / "pipe.mp4")


@pytest.mark.parametrize("kind", ["mkv", "webm"])
def test_matroska_that_starts_late(tmp_path, kind):
    path = tmp_path / f"late.{kind}"
    codec = {"mkv": "libx264", "webm": "libvpx-vp9"}[kind]
    with av.open(str(path), "w", container_options={"avoid_negative_ts": "disabled"}) as out:
        stream = out.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 192, 64, "yuv420p"
        for number in range(96):
            frame = av.VideoFrame.from_ndarray(draw(number), format="rgb24")
            frame.pts, frame.time_base = number + 250, Fraction(1, 25)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    frames, rate = load_frames(path, video_fps=25)
    assert [read(frame) for frame in frames] == list(range(96)) and rate == 25
    with pytest.raises(VideoError, match=r"is cut off: only \d+ of about 96 frames .* of 3.8 s"):
        load_frames(cut_file(path, 0.5))


@pytest.mark.parametrize("content", [b"", b"just some words, no video\n" * 99, b"\0" * 5000])
def test_not_a_video(tmp_path, content):
    path = tmp_path / "words.mp4"
    path.write_bytes(content)
    with pytest.raises(VideoError, match="can't be read as a video"):
        load_frames(path)


def test_truncated_without_index(tmp_path):
    path = cut_file(make_clip(tmp_path / "cut.mp4"), 0.6)
    with pytest.raises(VideoError, match="can't be read as a video"):
        load_frames(path)


@pytest.mark.parametrize(
    ("name", "container"),
    [("cut.mp4", {"movflags": "faststart"}), ("cut.avi", {}), ("cut.mkv", {})],
)
def test_truncated_says_how_much_is_there(tmp_path, name, container):
    path = make_clip(tmp_path / name, count=150, container=container, g="30")
    assert scan(path).total == 150
    cut_file(path, 0.6)
    with pytest.raises(VideoError, match=r"only \d+ of (its|about) 150 frames"):
        load_frames(path)


def break_packets(path, numbers):
    with av.open(str(path)) as given:
        places = [(packet.pos, packet.size) for packet in given.demux(video=0) if packet.size]
    data = bytearray(path.read_bytes())
    for number in numbers:
        place, size = places[number]
        data[place : place + size] = b"\xff" * size
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("bf", ["0", "3"])
def test_damage_says_where_it_is(tmp_path, bf):
    path = make_clip(tmp_path / "broken.mp4", count=200, bf=bf, g="50", sc_threshold="0")
    break_packets(path, range(110, 120))
    says = r"damaged from 3\.\d\d to 5\.00 s: only its samples up to frame (9|10|11)\d of 200"
    with pytest.raises(VideoError, match=says):
        load_frames(path, video_fps=30)
    for clip in ((0, 3), (5, 6.6)):
        frames, _ = load_frames(path, video_fps=30, clip=clip)
        first = round(clip[0] * 30)
        assert [read(frame) for frame in frames] == list(range(first, first + len(frames)))


@pytest.mark.parametrize("cores", [1, 4])
def test_damage_can_be_skipped(tmp_path, monkeypatch, cores):
    monkeypatch.setattr("tempo_fast.video.decode.usable_cores", lambda: cores)
    path = make_clip(tmp_path / "broken.mp4", count=200, bf="0", g="50", sc_threshold="0")
    break_packets(path, [*range(3), *range(110, 120), 199])
    options = OpenOptions(video_fps=30, on_error="skip")
    with open_source(path, options) as source, pytest.warns(DamageWarning) as warned:
        numbers = [read(frame) for frame in source]
    # From the damage on nothing of its group is trusted, and the first group has no keyframe.
    lost = [*range(50), *range(110, 150), 199]
    sound = [number for number in range(200) if number not in lost]
    earlier = [max((s for s in sound if s <= number), default=50) for number in range(200)]
    assert numbers == earlier
    assert [str(w.message).split(" is ")[1] for w in warned] == [
        "damaged: 91 of its sampled frames could not be decoded (0.00 to 1.63 s, 3.67 to 4.97 s, "
        "6.63 to 6.63 s); the last sound one before them (or the first after) takes their place"
    ]
    options = OpenOptions(video_fps=30, on_error="skip", clip=(3.7, 4.9))
    with open_source(path, options) as source, pytest.raises(VideoError, match="damaged"):
        list(source)


def test_a_sound_file_gives_no_warning(recwarn):
    options = OpenOptions(on_error="skip")
    with open_source(GOLDEN / "clip.mp4", options) as source:
        assert [read(f) for f in source] == [read(f) for f in load_frames(GOLDEN / "clip.mp4")[0]]
    assert not recwarn.list


def test_zero_frames(tmp_path):
    path = tmp_path / "none.mkv"
    with av.open(str(path), "w") as out:
        video = out.add_stream("libx264", rate=30)
        video.width, video.height, video.pix_fmt = 64, 64, "yuv420p"
        write_sound(out)
    with pytest.raises(VideoError, match="no video frames"):
        load_frames(path)


def write_sound(out):
    sound = out.add_stream("aac", rate=16000)
    silence = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), "fltp", "mono")
    silence.rate = 16000
    out.mux(sound.encode(silence))
    out.mux(sound.encode(None))


def test_audio_only(tmp_path):
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as out:
        write_sound(out)
    with pytest.raises(VideoError, match="no video in it, only: audio"):
        load_frames(path)


def test_avi_of_single_frames_is_counted_without_decoding(tmp_path, monkeypatch):
    path = make_clip(tmp_path / "raw.avi", codec="rawvideo")
    monkeypatch.setattr("tempo_fast.video.scan._count_by_decoding", None)
    frames, _ = load_frames(path, video_fps=30)
    assert [read(frame) for frame in frames] == list(range(60))


def test_avi_that_begins_in_an_open_gop_is_no_damage(tmp_path):
    whole = make_clip(tmp_path / "whole.avi", codec="mpeg4", bf="2", g="20")
    with av.open(str(whole)) as given, av.open(str(tmp_path / "cut.avi"), "w") as out:
        stream = given.streams.video[0]
        copy = out.add_stream_from_template(stream)
        begun = False
        for packet in given.demux(stream):
            begun = begun or (packet.is_keyframe and packet.dts is not None and packet.dts > 0)
            if begun and packet.size:
                packet.stream = copy
                out.mux(packet)
    frames, _ = load_frames(tmp_path / "cut.avi", video_fps=30)
    assert 30 < len(frames) < 60
    assert [read(frame) for frame in frames] == list(range(60 - len(frames), 60))


def test_what_resizing_raises_is_no_damage_of_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr("tempo_fast.video.decode.usable_cores", lambda: 2)
    path = make_clip(tmp_path / "clip.mp4", g="12")
    threads = set()

    def refuse(frame):
        threads.add(threading.current_thread().name)
        if read(frame) == 30:
            raise VideoError("not this one")
        return frame

    # Resized by decoders where there are runs enough, by others where there is but one.
    for options, by in (
        (OpenOptions(video_fps=1000, max_frames=60), "tempo-fast-decode"),
        (OpenOptions(video_fps=1000, max_frames=60, clip=(0.9, 1.1)), "tempo-fast-resize"),
    ):
        threads.clear()
        found = []
        with open_source(path, options) as source:
            reader = SegmentReader(source, 2, 2, resize=refuse)
            with pytest.raises(VideoError, match=r"^not this one$"):
                found.extend(reader)
        assert threads and all(name.startswith(by) for name in threads)
