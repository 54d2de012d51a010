"""A small H.264 video whose content is known: coloured shapes that come and go."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

WIDTH, HEIGHT, FPS = 640, 360, 12
COLOURS = {"red": (214, 48, 49), "blue": (9, 82, 196), "yellow": (240, 196, 25)}


@dataclass(frozen=True)
class Scene:
    """A shape that is on screen from start to end, in seconds, moving from left to right."""

    colour: str
    shape: str
    start: float
    end: float


SCENES = (
    Scene("red", "circle", 4, 12),
    Scene("blue", "square", 16, 24),
    Scene("yellow", "circle", 27, 38),
)
SECONDS = 40


def draw(time: float) -> np.ndarray:
    """The frame at a moment in seconds: uint8 [HEIGHT, WIDTH, 3]."""
    rows, columns = np.ogrid[0:HEIGHT, 0:WIDTH]
    shade = 40 + 30 * np.sin(columns / 90 + time) + 30 * rows / HEIGHT
    frame = np.repeat(shade.astype(np.uint8)[..., None], 3, axis=2)
    for scene in SCENES:
        if scene.start <= time < scene.end:
            progress = (time - scene.start) / (scene.end - scene.start)
            across, down = columns - WIDTH * (0.15 + 0.7 * progress), rows - HEIGHT / 2
            inside = (
                across**2 + down**2 < 70**2
                if scene.shape == "circle"
                else np.maximum(abs(across), abs(down)) < 60
            )
            frame[inside] = COLOURS[scene.colour]
    return frame


def write_video(path: Path) -> Path:
    """Write the demo's video as H.264 in mp4, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    try:
        with av.open(str(part), "w", format="mp4") as container:
            stream = container.add_stream("libx264", rate=FPS, options={"crf": "23"})
            stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
            for number in range(SECONDS * FPS):
                frame = av.VideoFrame.from_ndarray(draw(number / FPS), format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path
