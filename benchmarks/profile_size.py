"""`python -m benchmarks.profile_size SIZE FRAMES FOLDER`: `profile` without a checkpoint.

SIZE: as of the benchmarks' --size. The video is the benchmarks', in memory.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from tempo_fast.profiling import profile_question

from .sizes import load_size
from .workload import FIRST, FPS, make_video

NEW_TOKENS = 32


def main(size: str, frames: str, folder: str) -> None:
    """Profile a first question and print its tables."""
    models = load_size(size, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    video = make_video(int(frames), *models.frame)
    options = {"fps": FPS, "max_new_tokens": NEW_TOKENS}
    print(profile_question(models.engine, video, FIRST, Path(folder), **options).text)


if __name__ == "__main__":
    main(*sys.argv[1:])
