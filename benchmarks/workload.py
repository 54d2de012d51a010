"""The work that is timed: videos in memory, questions, and the shapes that floors follow from."""

from __future__ import annotations

import runpy
from functools import lru_cache

import numpy as np
import torch

from tempo_fast import CompressedVideo
from tempo_fast.video.resize import frame_size

from .floors import Work
from .sizes import GOLDEN, QUESTIONS, Models

WINDOW, FPS = 8, 2.0
DISTINCT = 64  # frames that are made; a longer video repeats them
FIRST, LATER = QUESTIONS[:2]


@lru_cache(maxsize=2)
def make_video(frames: int, height: int, width: int, seed: int = 1) -> np.ndarray:
    """uint8 [frames, height, width, 3] in memory."""
    make_frames = runpy.run_path(str(GOLDEN / "frames.py"))["make_frames"]
    distinct = make_frames(min(frames, DISTINCT), height, width, seed)
    return np.tile(distinct, (-(-frames // len(distinct)), 1, 1, 1))[:frames]


def work_of(models: Models, compressed: CompressedVideo, frames: int, query: str) -> Work:
    """The shapes of a question about a video of `frames` frames, every segment taken as full."""
    prompt = models.engine._compressors["video"].prompt
    config = models.engine.config
    height, width = frame_size(*models.frame)
    patches = (height // config.vision.patch) * (width // config.vision.patch)
    moments = [0.0] * (-(-min(frames, WINDOW) // config.vision.temporal_patch))
    return Work(
        frames=frames,
        patches=patches,
        system=len(prompt.system),
        visual=len(prompt.visual(moments, patches // config.vision.merge**2)),
        query=len(prompt.query(query)),
        kept=compressed.allocations.tolist(),
        prompt=len(compressed.inputs_embeds),
        itemsize=torch.finfo(models.dtype).bits // 8,
    )
