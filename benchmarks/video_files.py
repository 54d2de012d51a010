"""The files that the video benchmarks read: made once, kept in a cache folder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

RATE = 30
_SHOT_SECONDS = 8


@dataclass(frozen=True)
class VideoFile:
    """An H.264 file of `seconds`, a keyframe every `gop` frames, `copies` times one after another.

    The copies are of packets: nothing is encoded again.
    """

    height: int
    width: int
    gop: int
    seconds: int
    bit_rate: int
    copies: int = 1

    @property
    def name(self) -> str:
        length = f"{self.seconds * self.copies} s"
        return f"{self.width}x{self.height}, GOP {self.gop}, {length}"

    def path(self, folder: Path) -> Path:
        """The file in `folder`, made there where it is missing."""
        kind = f"{self.width}x{self.height}-gop{self.gop}-{self.bit_rate}"
        path = folder / f"{kind}-{self.seconds}s-{self.copies}.mp4"
        if not path.exists():
            part = path.with_suffix(".part.mp4")  # a run that is cut short leaves no half file
            if self.copies > 1:
                once = VideoFile(self.height, self.width, self.gop, self.seconds, self.bit_rate)
                _repeat(once.path(folder), part, self.copies)
            else:
                _encode(self, part)
            part.rename(path)
        return path


@dataclass(frozen=True)
class Size:
    """What one run of the benchmark reads: `samples` frames of each file."""

    files: list[VideoFile]
    samples: int


_FULL = [
    VideoFile(height, width, gop, seconds=600, bit_rate=bit_rate)
    for height, width, bit_rate in ((720, 1280, 2_500_000), (1080, 1920, 5_000_000))
    for gop in (30, 250)
] + [VideoFile(720, 1280, 30, seconds=600, bit_rate=2_500_000, copies=6)]
# As many samples a second as in ten minutes.
_SHORT = [VideoFile(720, 1280, gop, seconds=120, bit_rate=2_500_000) for gop in (30, 250)]
_SMOKE = [
    VideoFile(96, 160, gop=24, seconds=4, bit_rate=200_000),
    VideoFile(96, 160, gop=24, seconds=4, bit_rate=200_000, copies=3),
]
SIZES = {"smoke": Size(_SMOKE, 16), "short": Size(_SHORT, 205), "full": Size(_FULL, 1024)}


def _pictures(file: VideoFile) -> Iterator[np.ndarray]:
    """Shots of a camera that moves over a textured scene, with film grain; planes of yuv420p."""
    rng = np.random.default_rng(file.height)
    height, width = file.height, file.width
    coarse = rng.integers(40, 200, (height // 8, width // 8)).astype(np.float32)
    scene = np.kron(coarse, np.ones((16, 16), np.float32))
    for axis in (0, 1):  # blurred, as a lens does
        scene = sum(np.roll(scene, shift, axis) for shift in range(-6, 7)) / 13
    luma = (scene + rng.normal(0, 6, scene.shape)).clip(16, 235).astype(np.uint8)
    grain = rng.integers(0, 4, (8, height, width), np.uint8)
    chroma = (scene[: height // 2, :width] / 2 + 64).astype(np.uint8)
    for number in range(file.seconds * RATE):
        shot, step = divmod(number, _SHOT_SECONDS * RATE)
        top = (shot * 131 + step * (1 + shot % 3) // 2) % height
        left = (shot * 277 + step * (1 + shot % 2)) % width
        picture = luma[top : top + height, left : left + width] + grain[number % 8]
        colours = np.roll(chroma, step // 2, 1).reshape(height // 2, width)
        yield np.concatenate([picture, colours])


def _encode(file: VideoFile, path: Path) -> None:
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = file.width, file.height, "yuv420p"
        stream.bit_rate = file.bit_rate
        stream.options = {
            "preset": "veryfast",
            "bf": "3",
            "g": str(file.gop),
            "keyint_min": str(file.gop),
            "sc_threshold": "0",
        }
        for picture in _pictures(file):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="yuv420p")))
        out.mux(stream.encode(None))


def _repeat(source: Path, target: Path, copies: int) -> None:
    with av.open(str(target), "w") as out:
        copy, length = None, 0
        for number in range(copies):
            with av.open(str(source)) as given:
                stream = given.streams.video[0]
                copy = copy or out.add_stream_from_template(stream)
                if not length:
                    length = int(Fraction(stream.frames, RATE) / stream.time_base)
                for packet in given.demux(stream):
                    if packet.dts is None:
                        continue
                    packet.pts += number * length
                    packet.dts += number * length
                    packet.stream = copy
                    out.mux(packet)
