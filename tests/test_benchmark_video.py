"""The video benchmark works: on seconds of video, and on what it refuses."""

import subprocess
import sys
from pathlib import Path

from .needs import needs_av

ROOT = Path(__file__).parents[1]
WAYS = ("tempo_fast", "published", "pyav", "torchcodec", "our_torchcodec", "nvdec", "one_core")


def bench(*arguments):
    command = [sys.executable, "-m", "pytest", "benchmarks/test_video.py", "--video-size", "smoke"]
    command += arguments
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300)


@needs_av
def test_every_way_gives_the_same_patches(tmp_path):
    done = bench("-o", f"cache_dir={tmp_path}")
    assert done.returncode == 0, done.stdout + done.stderr
    for file in ("160x96, GOP 24, 4 s", "160x96, GOP 24, 12 s"):
        for way in WAYS:
            (line,) = (
                x
                for x in done.stdout.splitlines()
                if x.startswith(file) and way == x[33:47].strip()
            )
            assert "times as fast as" in line or "not measured: " in line
    made = sorted(path.name for path in (tmp_path / "d" / "tempo-fast-video").iterdir())
    assert made == ["160x96-gop24-200000-4s-1.mp4", "160x96-gop24-200000-4s-3.mp4"]


@needs_av
def test_only_some_ways(tmp_path):
    done = bench("-o", f"cache_dir={tmp_path}", "--video-ways", "pyav", "-k", "not 12")
    assert done.returncode == 0, done.stdout + done.stderr
    ways = {x[33:47].strip() for x in done.stdout.splitlines() if x.startswith("160x96, GOP")}
    assert ways == {"tempo_fast", "pyav"}
    done = bench("--video-ways", "decord")
    assert done.returncode != 0 and "it is none of" in done.stderr + done.stdout


def test_a_smoke_run_is_not_kept():
    done = bench("--save-video")
    said = done.stderr + done.stdout
    assert done.returncode != 0 and "keeps no figures of --video-size smoke" in said
