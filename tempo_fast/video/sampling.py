"""Which frames of a video are looked at."""

from __future__ import annotations

import numpy as np

from tempo_fast.errors import OptionError, VideoError


def clip_range(total: int, source_fps: float, clip: tuple[float, float] | None) -> tuple[int, int]:
    """The frames (first, last), both included, of the seconds `clip` = (start, end).

    Raises OptionError when the clip holds no frame.
    """
    if clip is None:
        return 0, total - 1
    first, last = int(clip[0] * source_fps), min(int(clip[1] * source_fps), total - 1)
    if first > last:
        raise OptionError(
            f"clip={tuple(clip)} holds no frame: the video has {total} frames at "
            f"{source_fps:g} a second and ends after {total / source_fps:g} s"
        )
    return first, last


def sample_indices(
    total: int,
    source_fps: float,
    *,
    video_fps: float = 2.0,
    max_frames: int = 1024,
    min_frames: int = 4,
    clip: tuple[float, float] | None = None,
) -> tuple[np.ndarray, float]:
    """Spread frames evenly over a video, by the published code's rule.

    total: frames of the video. source_fps: its frames a second; 0 or less (unknown) counts as
    video_fps. clip: seconds (start, end); the frames in it are sampled as if they were all.
    Returns (int64 [n] frame indices, not falling, possibly repeated; real_fps, their rate in frames
    a second). Raises VideoError for a video without frames, OptionError for an empty clip.
    """
    if total < 1:
        raise VideoError("the video has no frames")
    if source_fps <= 0:
        source_fps = video_fps
    first, last = clip_range(total, source_fps, clip)
    length = last - first + 1
    seconds = length / source_fps
    wanted = min(max(1, round(seconds * video_fps), min_frames), max_frames)
    count = wanted if length > 1 else 1
    if count == 1:
        indices = np.array([length - 1], np.int64)
    else:
        indices = np.rint(np.linspace(0, length - 1, count)).astype(np.int64)
    return indices + first, count / seconds
