"""The work of the end-to-end comparison: the golden checkpoint, a long video in memory, questions.

TEMPO_BENCH_SEGMENTS sets the length of the video, 128 segments (1024 frames) if it is not set, and
TEMPO_BENCH_THREADS the threads of each, 2 if it is not set.
"""

from __future__ import annotations

import os
import runpy
from pathlib import Path

import numpy as np
import torch

from tempo_fast import Answer, TempoFastPipeline

from .baseline import Baseline, BaselineAnswer

GOLDEN = Path(__file__).parents[1] / "tests" / "golden"
CHECKPOINT = GOLDEN / "checkpoint" / "tiny-tempo"
SEGMENTS = int(os.environ.get("TEMPO_BENCH_SEGMENTS", "128"))
WINDOW, FPS = 8, 2.0
HEIGHT, WIDTH = 180, 320
DISTINCT = 64  # frames that are made; a longer video repeats them
THREADS = int(os.environ.get("TEMPO_BENCH_THREADS", "2"))
ASKING = {"max_new_tokens": 32}
FIRST, LATER = "What color is the ball?", "When does it stop?"


def make_video(segments: int = SEGMENTS) -> np.ndarray:
    """uint8 [8 · segments, 180, 320, 3]."""
    make_frames = runpy.run_path(str(GOLDEN / "frames.py"))["make_frames"]
    count = segments * WINDOW
    distinct = make_frames(min(count, DISTINCT), HEIGHT, WIDTH, 1)
    return np.tile(distinct, (-(-count // len(distinct)), 1, 1, 1))[:count]


def load_engine() -> TempoFastPipeline:
    torch.set_num_threads(THREADS)
    return TempoFastPipeline.from_pretrained(CHECKPOINT, device="cpu", dtype="float32")


def load_baseline() -> Baseline:
    torch.set_num_threads(THREADS)
    return Baseline.from_folder(CHECKPOINT)


def ask_engine(engine: TempoFastPipeline, video: np.ndarray, query: str) -> Answer:
    return engine(video, query, fps=FPS, **ASKING)


def ask_baseline(baseline: Baseline, video: np.ndarray, query: str) -> BaselineAnswer:
    return baseline.answer(video, FPS, query, **ASKING)


def check_same(answer: Answer, expected: BaselineAnswer) -> None:
    """Refuse a comparison of different work: a short answer, or not the baseline's."""
    assert len(expected.token_ids) == ASKING["max_new_tokens"], "the answer ended early"
    assert answer.allocations == expected.allocations, "other allocations than the baseline's"
    assert answer.token_ids == expected.token_ids, "other token ids than the baseline's"
