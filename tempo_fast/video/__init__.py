"""From a video file to resized, cut and normalised frames."""

from __future__ import annotations

import os

import numpy as np

from tempo_fast.errors import VideoError
from tempo_fast.options import OpenOptions, make_options
from tempo_fast.video.frames import FrameSource
from tempo_fast.video.source import open_source

__all__ = ["FrameSource", "load_frames", "open_source"]


def load_frames(
    path: str | os.PathLike,
    video_fps: float = 2.0,
    max_frames: int = 1024,
    min_frames: int = 4,
    clip: tuple[float, float] | None = None,
    fps: float | None = None,
    **others: object,
) -> tuple[np.ndarray, float]:
    """Read the sampled frames of a video at their native size.

    path: anything that `open_source` takes. The options are those of `OpenOptions`, others too:
    decoder, frames, on_error, allow_remote and so on.
    Returns (uint8 [F, H, W, 3] RGB, real_fps), real_fps in sampled frames a second.
    Raises VideoError for what can't be read as a video, OptionError for an option out of range.
    """
    named = {
        "video_fps": video_fps,
        "max_frames": max_frames,
        "min_frames": min_frames,
        "clip": clip,
        "fps": fps,
    }
    options = make_options(OpenOptions, named | others)
    with open_source(path, options) as source:
        frames = np.empty((source.count, source.height, source.width, 3), np.uint8)
        read = 0
        for read, frame in enumerate(source, 1):
            frames[read - 1] = frame
        if read != source.count:
            raise VideoError(f"only {read} of {source.count} sampled frames of {path} were read")
        return frames, source.real_fps
