"""`tempo-fast demo`, as a newcomer runs it."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("av")

from tempo_fast.demo.video import COLOURS, SCENES, SECONDS, write_video
from tempo_fast.video import load_frames


def test_the_video_shows_what_it_says(tmp_path):
    path = write_video(tmp_path / "demo.mp4")
    assert [file.name for file in tmp_path.iterdir()] == ["demo.mp4"]
    frames, fps = load_frames(path)
    assert (len(frames), fps) == (SECONDS * 2, 2)
    for scene in SCENES:
        colour = np.array(COLOURS[scene.colour])
        shown = (abs(frames.astype(int) - colour).max(-1) < 40).mean((1, 2)) > 0.01
        # Sampled frames lie up to half a second apart.
        times = shown.nonzero()[0] / fps
        assert abs(times.min() - scene.start) <= 0.5
        assert abs(times.max() - scene.end) <= 0.5


def test_the_demo_answers_two_questions(tmp_path):
    run = subprocess.run(
        [sys.executable, "-m", "tempo_fast", "demo", "--output", str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        timeout=600,
    )
    assert run.stderr == ""
    for number in (1, 2):
        answer = json.loads((tmp_path / f"answer-{number}.json").read_text())
        assert len(answer["allocations"]) == 10
        assert sum(answer["allocations"]) == 80
        assert answer["query"] in run.stdout
