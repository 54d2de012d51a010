"""Peak memory of two questions about one video, in a process of its own, on the CPU.

`python -m benchmarks.peak_memory engine|baseline SIZE DTYPE FRAMES BUDGET THREADS` from the
repository's root prints {"loaded_bytes": …, "peak_bytes": …}: the resident size with libraries,
weights and frames in memory and one short video answered, and by how much the largest size after
that exceeds it. Linux only.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import torch

from .sizes import load_size
from .workload import FIRST, FPS, LATER, WINDOW, make_video

ROOT = Path(__file__).parents[1]
NEW_TOKENS = 32


def measure(which: str, *work: str) -> dict[str, int]:
    """Run this file for "engine" or "baseline" and SIZE, DTYPE, FRAMES, BUDGET, THREADS."""
    command = [sys.executable, "-m", "benchmarks.peak_memory", which, *work]
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


def _resident(which: str) -> int:
    """Bytes by this process's status: VmRSS now, VmHWM at most since `_forget_largest`."""
    # Not ru_maxrss: a child process starts with its parent's.
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(f"{which}:"))
    return int(line.split()[1]) * 1024


def _forget_largest() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def main(which: str, size: str, dtype: str, frames: str, budget: str, threads: str) -> None:
    """Print one process's figures."""
    torch.set_num_threads(int(threads))
    models = load_size(size, torch.device("cpu"), getattr(torch, dtype))
    video = make_video(int(frames), *models.frame)
    options = {"visual_token_budget": int(budget), "max_new_tokens": NEW_TOKENS}
    if which == "engine":
        models.engine(video[:WINDOW], FIRST, fps=FPS, **options)
        _forget_largest()
        loaded = _resident("VmRSS")
        with models.engine.open(video, fps=FPS) as opened:
            for query in (FIRST, LATER):
                opened.ask(query, **options)
    else:
        models.baseline.answer(video[:WINDOW], FPS, FIRST, **options)
        _forget_largest()
        loaded = _resident("VmRSS")
        for query in (FIRST, LATER):
            models.baseline.answer(video, FPS, query, **options)
    peak = _resident("VmHWM") - loaded
    print(json.dumps({"loaded_bytes": loaded, "peak_bytes": peak}))


if __name__ == "__main__":
    main(*sys.argv[1:])
