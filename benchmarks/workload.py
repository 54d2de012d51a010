"""The work that is timed: videos in memory, questions, and the shapes that floors follow from."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from time import perf_counter
from typing import Any

import numpy as np
import torch

from tempo_fast import Answer, CompressedVideo
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


@dataclass(frozen=True)
class Asked:
    """An answer and the seconds to its first token. timings: by stage."""

    answer: Any
    first_token_seconds: float
    timings: dict[str, float]


def ask(engine: Callable[..., Answer], query: str, *video: object, **options: object) -> Asked:
    """`engine(*video, query)` with the moment of its first token."""
    moments: list[float] = []

    def progress(stage: str, done: int, total: int) -> None:
        if stage == "generate" and not moments:
            moments.append(perf_counter())

    began = perf_counter()
    answer = engine(*video, query, progress=progress, **options)
    return Asked(answer, moments[0] - began, answer.timings)


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
        visual=len(prompt.visual([moments], patches // config.vision.merge**2)[0]),
        query=len(prompt.query(query)),
        kept=compressed.allocations.tolist(),
        prompt=len(compressed.inputs_embeds),
        itemsize=torch.finfo(models.dtype).bits // 8,
    )
