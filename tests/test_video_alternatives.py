"""Keyframe-snapped samples, and torchcodec in the place of PyAV (where it is installed)."""

import sys
import types
from typing import ClassVar

import numpy as np
import pytest
import torch

pytest.importorskip("av")

import av

from tempo_fast.errors import OptionError, ShiftWarning, VideoError
from tempo_fast.options import OpenOptions
from tempo_fast.video import load_frames, open_source
from tempo_fast.video.decode import VideoFile
from tempo_fast.video.samples import choose_samples, nearest
from tempo_fast.video.scan import scan
from tempo_fast.video.torchcodec_file import TorchcodecFile

from .test_video_decode import draw, make_clip, read
from .test_video_exact import FORMATS, VARIANTS, write

# torchcodec's colours of these are others.
OTHER_COLOURS = {"interlaced.mp4", "mpeg4_interlaced.mkv"} | {
    "ten.mkv",
    "hevc_ten.mp4",
    "av1_ten.mkv",
    # Of odd height in 4:2:0.
    "odd_vp8.webm",
    "odd_vp9.webm",
    "odd_av1.mp4",
    "odd_mpeg4.mp4",
}


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Sixty frames at 30 a second, a keyframe every 12."""
    return make_clip(
        tmp_path_factory.mktemp("clip") / "clip.mp4", g="12", keyint_min="12", sc_threshold="0"
    )


def torchcodec_works() -> bool:
    try:
        import torchcodec.decoders  # noqa: F401  (what is tried is the import)
    except (ImportError, RuntimeError, OSError):
        return False
    return True


far = pytest.mark.filterwarnings("ignore::tempo_fast.errors.ShiftWarning")
with_torchcodec = pytest.mark.skipif(not torchcodec_works(), reason="torchcodec isn't installed")


def test_nearest_takes_the_lower_of_two():
    values = np.array([0, 10, 40])
    assert nearest(values, np.array([-3, 4, 5, 6, 25, 26, 99])).tolist() == [
        0, 0, 0, 10, 10, 40, 40,
    ]  # fmt: skip
    assert nearest(np.array([7]), np.array([0, 7, 9])).tolist() == [7, 7, 7]


@far
def test_keyframes_are_shown_for_the_samples_near_them(clip):
    frames, real_fps = load_frames(clip, video_fps=10, frames="keyframes")
    exact, exact_fps = load_frames(clip, video_fps=10)
    assert real_fps == exact_fps and len(frames) == len(exact)
    keys = np.array([0, 12, 24, 36, 48])
    wanted = [int(keys[np.abs(keys - read(frame)).argmin()]) for frame in exact]
    assert [read(frame) for frame in frames] == wanted
    with open_source(clip, OpenOptions(video_fps=30, frames="keyframes")) as source:
        assert source.shift == pytest.approx(11 / 30)  # the last one is 11 after its keyframe
    with open_source(clip, OpenOptions(video_fps=30)) as source:
        assert source.shift == 0


@far
def test_keyframes_decode_nothing_else(clip):
    with open_source(clip, OpenOptions(video_fps=30, frames="keyframes")) as source:
        assert [(run.end - run.start, len(run.times)) for run in source._runs] == [(1, 1)] * 5


def test_keyframes_that_cannot_be_told_are_an_error(tmp_path):
    path = make_clip(tmp_path / "guess.avi", codec="mpeg4", bf="2")
    with pytest.raises(VideoError, match="use frames='exact'"):
        open_source(path, OpenOptions(frames="keyframes"))


@far
def test_an_open_video_says_how_far_off_its_pictures_are(pipe, clip):
    with pipe.open(clip, frames="keyframes", video_fps=30) as video:
        assert video.shift == pytest.approx(11 / 30)
    with pipe.open(clip) as video:
        assert video.shift == 0


def test_keyframes_that_are_far_apart_are_warned_of(tmp_path):
    path = make_clip(tmp_path / "one.mp4", g="600", keyint_min="600", sc_threshold="0")
    with pytest.warns(ShiftWarning, match=r"up to 2.0 s off"):
        frames, _ = load_frames(path, video_fps=10, frames="keyframes")
    assert {read(frame) for frame in frames} == {0}


@pytest.mark.parametrize("option", [{"frames": "every"}, {"decoder": "vlc"}])
def test_other_values_are_refused(clip, option):
    with pytest.raises(OptionError, match="must be one of"):
        load_frames(clip, **option)


def test_an_unknown_option_is_refused(clip):
    with pytest.raises(OptionError, match="unknown option decode"):
        load_frames(clip, decode="pyav")


@with_torchcodec
@pytest.mark.parametrize("options", [{}, {"frames": "keyframes"}, {"clip": (0.5, 1.2)}])
def test_torchcodec_gives_the_same_frames(clip, options):
    ours, rate = load_frames(clip, video_fps=20, **options)
    theirs, their_rate = load_frames(clip, video_fps=20, decoder="torchcodec", **options)
    assert (ours == theirs).all() and rate == their_rate


@with_torchcodec
@pytest.mark.parametrize("name", [*VARIANTS, *FORMATS])
def test_torchcodec_is_exact_or_says_no(tmp_path, name):
    path = write(tmp_path / name, *{**VARIANTS, **FORMATS}[name])
    ours, _ = load_frames(path, video_fps=9)
    if name.endswith((".ts", ".avi")) or name == "refresh.mp4":
        with pytest.raises(VideoError, match="decoder='pyav'"):
            load_frames(path, video_fps=9, decoder="torchcodec")
        return
    theirs, _ = load_frames(path, video_fps=9, decoder="torchcodec")
    if name in OTHER_COLOURS:
        assert 0 < np.abs(ours.astype(int) - theirs).mean() < 8
    else:
        assert (ours == theirs).all()


@with_torchcodec
def test_torchcodec_reads_the_stream_that_pyav_reads(tmp_path, clip):
    path = tmp_path / "two.mkv"
    with av.open(str(path), "w") as out:
        streams = [out.add_stream("libx264", rate=30) for _ in range(2)]
        for stream in streams:
            stream.width, stream.height, stream.pix_fmt = 192, 64, "yuv420p"
        streams[1].disposition = av.stream.Disposition.default
        for number in range(20):
            for offset, stream in enumerate(streams):
                frame = av.VideoFrame.from_ndarray(draw(number + 100 * offset), format="rgb24")
                out.mux(stream.encode(frame))
        for stream in streams:
            out.mux(stream.encode(None))
    ours, _ = load_frames(path, video_fps=30)
    theirs, _ = load_frames(path, video_fps=30, decoder="torchcodec")
    assert [read(frame) for frame in ours] == list(range(20)) and (ours == theirs).all()


@with_torchcodec
def test_torchcodec_in_small_batches(clip, monkeypatch):
    monkeypatch.setattr("tempo_fast.video.torchcodec_file._ROOM_BYTES", 3 * 64 * 192 * 7)
    theirs, _ = load_frames(clip, video_fps=30, decoder="torchcodec")
    assert (theirs == load_frames(clip, video_fps=30)[0]).all()


@with_torchcodec
def test_torchcodec_that_fails_is_our_error(tmp_path, clip):
    data = bytearray(clip.read_bytes())
    middle = data.index(b"mdat") + 4 + (len(data) - data.index(b"mdat")) // 4
    data[middle : middle + 400] = bytes([0x5A]) * 400
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(data)
    with pytest.raises(VideoError, match="decoder='pyav' may"):
        load_frames(broken, video_fps=30, decoder="torchcodec")


def test_torchcodec_skips_no_damage(clip):
    with pytest.raises(OptionError, match="on_error='skip' needs decoder='pyav'"):
        load_frames(clip, decoder="torchcodec", on_error="skip")


def test_torchcodec_needs_times(tmp_path, fake_torchcodec):
    untimed = make_clip(tmp_path / "untimed.avi", codec="mpeg4")
    with pytest.raises(VideoError, match="use decoder='pyav'"):
        load_frames(untimed, decoder="torchcodec")


def test_without_torchcodec_it_says_what_is_missing(clip, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchcodec", None)
    monkeypatch.delitem(sys.modules, "torchcodec.decoders", raising=False)
    with pytest.raises(VideoError, match="decoder='torchcodec' needs torchcodec"):
        load_frames(clip, decoder="torchcodec")


class FakeDecoder:
    """torchcodec's interface over frames of our own, to see what is asked of it."""

    made: ClassVar[list] = []
    fallback = ""
    late = 0.0

    def __init__(self, path, *, stream_index, dimension_order, num_ffmpeg_threads, device):
        assert dimension_order == "NHWC" and num_ffmpeg_threads >= 1 and path.is_absolute()
        assert stream_index == 0
        self.index, self.device, self.cpu_fallback = scan(path), device, self.fallback
        self.path = path
        self.made.append(self)

    def get_frames_at(self, indices):
        import torch

        frames, _ = load_frames(self.path, video_fps=1000, max_frames=self.index.total)
        times = self.index.times[indices] * float(self.index.time_base) + self.late
        return types.SimpleNamespace(
            data=torch.from_numpy(frames[indices]), pts_seconds=torch.from_numpy(times)
        )


@pytest.fixture
def fake_torchcodec(monkeypatch):
    package, decoders = types.ModuleType("torchcodec"), types.ModuleType("torchcodec.decoders")
    decoders.VideoDecoder = FakeDecoder
    monkeypatch.setattr(FakeDecoder, "made", [])
    monkeypatch.setitem(sys.modules, "torchcodec", package)
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", decoders)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.current_device", lambda: 1)


@pytest.mark.parametrize("gpu", [True, False])
def test_auto_is_pyav_whatever_else_is_there(clip, fake_torchcodec, monkeypatch, gpu):
    monkeypatch.setattr("torch.cuda.is_available", lambda: gpu)
    with open_source(clip, OpenOptions()) as source:
        assert type(source) is VideoFile and source.count == len(list(source))
    assert not FakeDecoder.made
    with open_source(clip, OpenOptions(decoder="torchcodec")) as source:
        assert type(source) is TorchcodecFile


def test_auto_is_pyav_where_nothing_else_is(clip, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchcodec", None)
    with open_source(clip, OpenOptions()) as source:
        assert type(source) is VideoFile and source.count == len(list(source))


def test_nvdec_decodes_on_the_gpu(clip, fake_torchcodec):
    frames, _ = load_frames(clip, decoder="nvdec", video_fps=20)
    assert (frames == load_frames(clip, video_fps=20)[0]).all()
    assert {decoder.device for decoder in FakeDecoder.made} == {"cuda:1"}


@pytest.mark.gpu
@with_torchcodec
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU with NVDEC")
def test_nvdec_shows_the_same_frames(clip):
    """Its colours are its own, but not another frame's: those differ by tens of levels."""
    frames, fps = load_frames(clip, decoder="nvdec", video_fps=20)
    expected, expected_fps = load_frames(clip, video_fps=20)
    assert frames.shape == expected.shape and fps == expected_fps
    off = np.abs(frames.astype(int) - expected).mean(axis=(1, 2, 3))
    assert off.max() <= 4


def test_nvdec_without_a_gpu(clip, fake_torchcodec, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(VideoError, match="decoder='nvdec' needs a GPU"):
        load_frames(clip, decoder="nvdec")


def test_nvdec_that_falls_back_is_refused(clip, fake_torchcodec, monkeypatch):
    monkeypatch.setattr(FakeDecoder, "fallback", "unsupported codec")
    with pytest.raises(VideoError, match=r"NVDEC can't decode .*unsupported codec"):
        load_frames(clip, decoder="nvdec")
    assert len(load_frames(clip, decoder="torchcodec")[0])


def test_frames_of_other_times_are_refused(clip, fake_torchcodec, monkeypatch):
    monkeypatch.setattr(FakeDecoder, "late", 1 / 30)
    with pytest.raises(VideoError, match="gave another frame"):
        load_frames(clip, decoder="torchcodec")


def test_samples_of_a_file(clip):
    index = scan(clip)
    samples = choose_samples(index, OpenOptions(video_fps=30))
    assert samples.indices.tolist() == list(range(60))
    assert (samples.wanted == index.times).all() and samples.shift == 0
