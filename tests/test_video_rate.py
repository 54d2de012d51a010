"""A video's mean rate: as its header states it, or as its frames keep it."""

from fractions import Fraction

import numpy as np
import pytest

pytest.importorskip("av")

import av

from tempo_fast.options import OpenOptions
from tempo_fast.video import open_source
from tempo_fast.video.scan import scan

from .test_video_decode import make_clip


@pytest.mark.parametrize("kind", ["mkv", "ts", "mp4"])
def test_a_rate_that_the_frames_dont_keep(tmp_path, kind):
    """Half of the frames come at 30 a second, the others at 5."""
    path, at = tmp_path / f"slower.{kind}", 0
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for number in range(60):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 4 * number, np.uint8))
            frame.pts, frame.time_base = at, Fraction(1, 30)
            at += 1 if number < 30 else 6
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    seconds = (at - 6) / 30
    assert scan(path).fps == pytest.approx(59 / seconds, rel=0.07)  # how long is the last one?
    # Where clips begin, and what the time tags say, goes by that.
    with open_source(path, OpenOptions(video_fps=1)) as source:
        assert source.count / source.real_fps == pytest.approx(seconds, rel=0.05)


def test_a_rate_that_the_frames_keep_is_taken_as_it_is_stated(tmp_path):
    for kind in ("mkv", "ts", "webm"):
        codec = "libvpx" if kind == "webm" else "libx264"
        path = make_clip(tmp_path / f"clip.{kind}", codec=codec, count=7)
        assert scan(path).fps == 30


def test_a_clock_that_was_set_on_the_way_doesnt_change_the_rate(tmp_path):
    path = tmp_path / "jump.mkv"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for number in range(60):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 4 * number, np.uint8))
            frame.pts = number + (900_000 if number >= 30 else 0)
            frame.time_base = Fraction(1, 25)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    assert scan(path).fps == 25
