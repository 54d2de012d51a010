"""What will be encoded, known before a frame is decoded: segments, their ids and positions."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from tempo_fast.checkpoint.config import VisionConfig
from tempo_fast.compression.positions import segment_positions
from tempo_fast.compression.prompt import SegmentPrompt
from tempo_fast.video.segments import Window


@dataclass(frozen=True)
class Segment:
    """One segment's visual part.

    ids: its prompt between the system part and the query. visual: bool [len(ids)], true where a
    visual token stands. positions: int64 [3, len(ids)]. next_position: of the query's first token.
    """

    ids: torch.Tensor
    visual: torch.Tensor
    positions: torch.Tensor
    next_position: int


@dataclass(frozen=True)
class SegmentPlan:
    """All segments of a video (or the one of an image).

    grid: rows and columns of patches in a frame. times: (start_s, end_s) of each segment. centres:
    the moment of each that the language model is told, or None for an image. resizing: what is left
    to be done to the frames as they come, (height, width, by_pillow) in order.
    """

    segments: list[Segment]
    grid: tuple[int, int]
    times: list[tuple[float, float]]
    centres: list[float] | None
    resizing: tuple[tuple[int, int, bool], ...] = ()

    @property
    def tokens(self) -> int:
        """Tokens of the longest visual part."""
        return max(len(segment.ids) for segment in self.segments)


def plan_segments(
    prompt: SegmentPrompt,
    windows: list[Window],
    *,
    frame_size: tuple[int, int],
    vision: VisionConfig,
    window_size: int,
    real_fps: float,
    is_image: bool,
    resizing: tuple[tuple[int, int, bool], ...] = (),
) -> SegmentPlan:
    """Lay out the visual part of each window of frames.

    frame_size: height and width in pixels. window_size: frames of a full segment. real_fps: sampled
    frames a second. Pairs of frames are one temporal patch, an odd last frame is paired with the
    index after it.
    """
    grid = tuple(side // vision.patch for side in frame_size)
    blocks = tuple(side // vision.merge for side in grid)
    moments = [
        [
            (first / real_fps + (first + 1) / real_fps) / 2
            for first in range(window.start, window.end, 2)
        ]
        for window in windows
    ]
    # Most have the same layout: where text is and where visual tokens are.
    layouts: dict[bytes, tuple[torch.Tensor, int]] = {}
    segments = []
    for ids in map(torch.tensor, prompt.visual(moments, blocks[0] * blocks[1])):
        visual = ids == prompt.pad_token
        layout = visual.numpy().tobytes()
        if layout not in layouts:
            layouts[layout] = segment_positions(visual, blocks, len(prompt.system))
        segments.append(Segment(ids, visual, *layouts[layout]))
    return SegmentPlan(
        resizing=resizing,
        segments=segments,
        grid=grid,
        times=[(window.start / real_fps, window.end / real_fps) for window in windows],
        centres=None
        if is_image
        else [(window.start + window_size / 2) / real_fps for window in windows],
    )
