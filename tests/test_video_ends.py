"""However reading a video file ends, no thread, process or open file of it is left."""

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

pytest.importorskip("av")

from tempo_fast.errors import VideoError
from tempo_fast.options import OpenOptions
from tempo_fast.video import decode, open_source
from tempo_fast.video.damage import Damage, UntimedDamage
from tempo_fast.video.decode import VideoFile
from tempo_fast.video.resize import resize_frame
from tempo_fast.video.segments import SegmentReader

from .process import descriptors, native_threads, on_linux
from .test_video_decode import break_packets, make_clip

OPTIONS = OpenOptions(video_fps=30)
# Of 120 frames: what makes it decoded by several workers, by one alone, or from its start on.
FILES = {
    "parallel.mp4": {"g": "12", "keyint_min": "12", "sc_threshold": "0", "bf": "0"},
    "single.mp4": {"g": "600", "keyint_min": "600", "sc_threshold": "0", "bf": "0"},
    "counted.avi": {"bf": "0"},
}
ROOT = Path(__file__).parents[1]
pytestmark = on_linux


@pytest.fixture(params=FILES)
def path(request, tmp_path, monkeypatch):
    monkeypatch.setattr(decode, "usable_cores", lambda: 4)
    path = make_clip(tmp_path / request.param, count=120, **FILES[request.param])
    assert len(VideoFile(path, OPTIONS)._runs) == {"p": 10, "s": 1, "c": 0}[path.name[0]]
    return path


def left(path):
    """The threads of ours and of FFmpeg's decoders, and the process's open files of this path."""
    threads = [t.name for t in threading.enumerate() if t.name.startswith("tempo-fast")]
    decoders = [name for name in native_threads() if name.startswith("av:")]
    return threads + decoders + [str(path)] * descriptors(path)


@pytest.fixture(autouse=True)
def nothing_is_left(path):
    yield
    gc.collect()
    assert left(path) == []


class BrokenError(Exception):
    """What no code of ours expects."""


def test_the_end(path):
    assert len(list(VideoFile(path, OPTIONS))) == 120
    assert left(path) == []
    assert len(list(SegmentReader(VideoFile(path, OPTIONS), 8, 8))) == 15
    assert left(path) == []


def test_something_is_held_in_the_middle(path):
    """What the other tests look for is there to be seen."""
    with SegmentReader(VideoFile(path, OPTIONS), 8, 8, depth=1) as reader:
        segments = iter(reader)
        next(segments)
        found = left(path)
        assert str(path.resolve()) in found and "tempo-fast-segments" in found
        assert any(name.startswith("av:") for name in found) == (path.name != "parallel.mp4")
    assert left(path) == []


def test_a_frame_that_cannot_be_decoded(path):
    break_packets(path, range(60, 72))
    with pytest.raises(VideoError, match="damaged") as held:
        list(SegmentReader(VideoFile(path, OPTIONS), 8, 8))
    assert left(path) == []
    with pytest.raises(VideoError, match="damaged") as held:  # noqa: F841
        list(VideoFile(path, OPTIONS))
    assert left(path) == []


@pytest.mark.parametrize("error", [BrokenError, MemoryError, KeyboardInterrupt])
@pytest.mark.parametrize("inside", [False, True])
def test_an_error_in_decoding(path, monkeypatch, error, inside):
    """Where a frame is converted, or inside the loop in which packets are decoded."""
    source, count = VideoFile(path, OPTIONS), iter(range(10_000))

    def failing(works):
        def fails(*args, **kwargs):
            if next(count) == 61:
                raise error
            return works(*args, **kwargs)

        return fails

    if inside:
        for kind in (Damage, UntimedDamage):
            monkeypatch.setattr(kind, "come", failing(kind.come))
    else:
        monkeypatch.setattr(decode, "to_pixels", failing(decode.to_pixels))
    with pytest.raises(error) as held:  # noqa: F841  (who keeps the error keeps no decoder)
        list(SegmentReader(source, 8, 8))
    assert left(path) == []


def test_an_error_in_opening(path, monkeypatch):
    kept = path.read_bytes()
    break_packets(path, range(120))
    with pytest.raises(VideoError, match=r"no frame that can be decoded|can.t be read") as held:
        open_source(path, OPTIONS)
    assert left(path) == []
    path.write_bytes(kept)

    def fails(*args, **kwargs):
        raise BrokenError

    monkeypatch.setattr(UntimedDamage, "come", fails)
    if path.suffix == ".avi":  # whose frames are counted
        with pytest.raises(BrokenError) as held:  # noqa: F841
            open_source(path, OPTIONS)
        assert left(path) == []


@pytest.mark.parametrize("error", [BrokenError, VideoError, MemoryError])
def test_an_error_in_resizing(path, error):
    count = iter(range(10_000))

    def fails(frame):
        if next(count) == 60:
            raise error("this one")
        return resize_frame(frame)

    with pytest.raises(error, match="this one") as held:  # noqa: F841
        list(SegmentReader(VideoFile(path, OPTIONS), 8, 8, resize=fails))
    assert left(path) == []


def test_an_error_of_the_consumer(path):
    with pytest.raises(BrokenError):
        for _ in SegmentReader(VideoFile(path, OPTIONS), 8, 8):
            raise BrokenError
    gc.collect()
    assert left(path) == []


@pytest.mark.parametrize("taken", [0, 1, 9])
def test_a_reader_that_is_closed_early(path, taken):
    reader = SegmentReader(VideoFile(path, OPTIONS), 8, 8)
    segments = iter(reader)
    for _ in range(taken):
        next(segments)
    if taken:
        segments.close()
    else:
        reader.close()
    assert left(path) == []


@pytest.mark.parametrize("taken", [1, 50])
def test_frames_that_are_closed_early(path, taken):
    frames = iter(VideoFile(path, OPTIONS))
    for _ in range(taken):
        next(frames)
    frames.close()
    assert left(path) == []


def test_an_encoder_that_fails(path, pipe, monkeypatch):
    def fails(*_):
        raise BrokenError

    monkeypatch.setattr(pipe._compressors["video"], "_see", fails)
    with pytest.raises(BrokenError):
        pipe.open(path, video_fps=30)
    gc.collect()
    assert left(path) == []
    with pytest.raises(BrokenError):
        pipe(path, "What moves?", video_fps=30)


PROGRAM = """
import os, sys, threading, time
from tempo_fast.options import OpenOptions
from tempo_fast.video import decode, open_source
from tempo_fast.video.segments import SegmentReader
from tests.process import children, descriptors

path, stage = sys.argv[1:]
decode.usable_cores = lambda: 4
to_pixels = decode.to_pixels

def slow(work):
    def run(*args):
        done = work(*args)
        time.sleep(0.5)  # a minute in all, with what is left after the first segment
        return done
    return run

if stage == "decoding":
    decode.to_pixels = slow(to_pixels)
resize = slow(lambda frame: frame) if stage == "resizing" else lambda frame: frame
source = open_source(path, OpenOptions(video_fps=30))
frames = iter(source) if stage == "no reader" else SegmentReader(source, 2, 2, resize=resize)
print("opened", flush=True)
try:
    for segment in frames:
        print("ready", flush=True)
        if stage in ("encoding", "no reader"):
            time.sleep(60)
except KeyboardInterrupt:
    del segment, frames
    print([thread.name for thread in threading.enumerate()])
    print(descriptors(path), children())
    if "again" in os.environ:
        raise
"""


@pytest.mark.parametrize("path", ["parallel.mp4"], indirect=True)
@pytest.mark.parametrize("stage", ["decoding", "resizing", "encoding", "no reader"])
def test_an_interrupt(path, stage):
    """A real Ctrl-C, while the main thread waits for a segment or works on one."""
    command = [sys.executable, "-c", PROGRAM, str(path.resolve()), stage]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as running:
        assert [running.stdout.readline() for _ in range(2)] == ["opened\n", "ready\n"]
        time.sleep(0.1)
        began = time.monotonic()
        running.send_signal(signal.SIGINT)
        out, _ = running.communicate(timeout=60)
        seconds = time.monotonic() - began
    assert running.returncode == 0 and seconds < 10
    assert out.splitlines()[-2:] == ["['MainThread']", "0 []"]


@pytest.mark.parametrize("path", ["parallel.mp4"], indirect=True)
def test_an_interrupt_that_nobody_catches(path):
    command = [sys.executable, "-c", PROGRAM, str(path.resolve()), "decoding"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    environment = os.environ | {"again": "1"}
    with subprocess.Popen(command, **pipes, cwd=ROOT, env=environment) as running:
        assert [running.stdout.readline() for _ in range(2)] == ["opened\n", "ready\n"]
        running.send_signal(signal.SIGINT)
        _, said = running.communicate(timeout=60)
    assert running.returncode == -signal.SIGINT
    assert said.splitlines()[-1] == "KeyboardInterrupt" and said.count("Traceback") == 1
