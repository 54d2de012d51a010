"""Times the video front end against the published path, interleaved in one run.

`pytest benchmarks/test_video.py`: from a file to the last patch and to the first segment's, CPU
seconds and peak memory, each way in a process of its own. A way whose patches differ from the
published path's gets no row but a failure. `--video-size short`: on two minutes of 720p instead of
ten minutes to an hour of 720p and 1080p; `smoke`: on seconds, to see that it works.
`--video-ways published,…`: only some of them. `--save-video`: leave a JSON file for each video in
benchmarks/results (on a clean commit).
"""

from __future__ import annotations

import importlib
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("av", reason="not measured: PyAV isn't installed here")

from . import settings
from .video_files import SIZES, VideoFile
from .video_paths import NEEDS

ROOT = Path(__file__).parents[1]
BASELINE = "published"
# By how much a GPU's decoder may make other colours, on average.
NVDEC_LEVELS = 4
FIGURES = ("seconds", "first_segment_seconds", "cpu_seconds", "peak_bytes")


def pytest_generate_tests(metafunc) -> None:
    if "file" in metafunc.fixturenames:
        files = SIZES[metafunc.config.getoption("video_size")].files
        metafunc.parametrize("file", files, ids=lambda file: file.name)


def _missing(way: str) -> str | None:
    """Why a way can't be run here."""
    if way in NEEDS:
        try:
            importlib.import_module(NEEDS[way])
        except (ImportError, RuntimeError, OSError) as error:
            return f"{NEEDS[way]}: {str(error).strip().splitlines()[0]}"
    if way == "nvdec" and not torch.cuda.is_available():
        return "no CUDA GPU here"
    if way == "one_core" and not hasattr(os, "sched_setaffinity"):
        return "this system keeps no process on one core"
    return None


def _run(way: str, path: Path, samples: int, check: Path) -> dict:
    command = [sys.executable, str(ROOT / "benchmarks" / "video_paths.py"), way, str(path)]
    done = subprocess.run(
        [*command, str(samples), str(check)], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_to_the_last_patch(benchmark, request, tmp_path, video_rows, file: VideoFile):
    size = request.config.getoption("video_size")
    samples = SIZES[size].samples
    rounds = 1 if size == "smoke" else request.config.getoption("video_rounds")
    path = file.path(Path(request.config.cache.mkdir("tempo-fast-video")))
    ways = settings.video_ways(request.config)
    missing = {way: why for way in ways if (why := _missing(way))}
    runs = {way: [] for way in ways if way not in missing}

    def run(way: str) -> None:
        runs[way].append(_run(way, path, samples, tmp_path / f"{way}.npy"))

    def others() -> None:
        for way in runs:
            if way != "tempo_fast":
                run(way)

    benchmark.group = file.name
    benchmark.pedantic(run, ("tempo_fast",), setup=others, rounds=rounds, iterations=1)
    reference = next(way for way in (BASELINE, "pyav", "tempo_fast") if way in runs)
    expected = np.load(tmp_path / f"{reference}.npy")
    medians = {
        way: {name: statistics.median(one[name] for one in results) for name in FIGURES}
        for way, results in runs.items()
    }
    for way, figures in medians.items():
        found = np.load(tmp_path / f"{way}.npy")
        if way == "nvdec":
            assert np.abs(found - expected).mean() <= NVDEC_LEVELS / 127.5
        else:
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6, err_msg=way)
        ratios = {name: figures[name] / medians[reference][name] for name in FIGURES}
        row = {"file": file.name, "samples": samples, "way": way, "against": reference}
        video_rows.append({**row, **figures, "runs": runs[way], "ratios": ratios})
    for way, why in missing.items():
        video_rows.append({"file": file.name, "way": way, "missing": why})
    benchmark.extra_info["rows"] = [row for row in video_rows if row["file"] == file.name]
