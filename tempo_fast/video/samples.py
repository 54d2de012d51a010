"""Which frames of a video file are shown for which samples."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np

from tempo_fast.errors import ShiftWarning, VideoError
from tempo_fast.options import OpenOptions
from tempo_fast.video.sampling import sample_indices
from tempo_fast.video.scan import FrameIndex


@dataclass(frozen=True)
class Samples:
    """The samples of a file, in order.

    indices: int64 [F], the numbers of the frames that are shown for them, not falling. wanted:
    int64 [F], what those frames are known by: their times, or their numbers where the index has no
    times. real_fps: samples a second. shift: the most seconds between a sample's moment and the
    frame that is shown for it.
    """

    indices: np.ndarray
    wanted: np.ndarray
    real_fps: float
    shift: float = 0.0


def choose_samples(index: FrameIndex, options: OpenOptions) -> Samples:
    """The samples of an indexed file: by the published rule, or the keyframes nearest to those.

    Warns with ShiftWarning where those are further off than a segment is long. Raises VideoError
    where the keyframes can't be told, OptionError for an empty clip.
    """
    indices, real_fps = sample_indices(
        index.total,
        index.fps,
        video_fps=options.video_fps,
        max_frames=options.max_frames,
        min_frames=options.min_frames,
        clip=options.clip,
    )
    wanted = indices if index.times is None else index.times[indices]
    if options.frames == "exact":
        return Samples(indices, wanted, real_fps)
    shown = nearest(_keyframes(index), wanted)
    shift = float(np.abs(shown - wanted).max() * index.time_base)
    if shift > options.frame_windows / real_fps:
        warnings.warn(
            f"with frames='keyframes', what is shown is up to {shift:.1f} s off: the keyframes of "
            "this video are that far apart; frames='exact' shows the sampled moments",
            ShiftWarning,
            stacklevel=2,
        )
    return Samples(np.searchsorted(index.times, shown), shown, real_fps, shift)


def nearest(values: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """The nearest of the rising values [E] to each target [F]; of two, the lower."""
    above = np.searchsorted(values, targets).clip(1, max(1, len(values) - 1))
    low, high = values[above - 1], values[np.minimum(above, len(values) - 1)]
    return np.where(targets - low <= high - targets, low, high)


def _keyframes(index: FrameIndex) -> np.ndarray:
    """The times of the frames that can be decoded by themselves and are shown, rising."""
    times = np.empty(0, np.int64)
    if index.packets is not None:
        times = np.intersect1d(index.packets.times[index.packets.entries], index.times)
    if not len(times):
        raise VideoError(
            "frames='keyframes' needs a file whose packets say where its keyframes are, and this "
            "one's don't; use frames='exact'"
        )
    return times
