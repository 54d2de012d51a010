"""Peak memory of two questions about one video, in a process of its own.

`python -m benchmarks.peak_memory engine|baseline` from the repository's root prints
{"loaded": bytes, "peak": bytes}: the resident size with libraries, weights and frames in memory
and one short video answered, and by how much the largest size after that exceeds it. Linux only.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from .workload import (
    ASKING,
    FIRST,
    FPS,
    LATER,
    WINDOW,
    ask_baseline,
    ask_engine,
    load_baseline,
    load_engine,
    make_video,
)

ROOT = Path(__file__).parents[1]


def measure(which: str) -> dict[str, int]:
    """Run this file for "engine" or "baseline"."""
    command = [sys.executable, "-m", "benchmarks.peak_memory", which]
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


def main(which: str) -> None:
    video = make_video()
    if which == "engine":
        engine = load_engine()
        ask_engine(engine, video[:WINDOW], FIRST)
        _forget_largest()
        loaded = _resident("VmRSS")
        with engine.open(video, fps=FPS) as opened:
            for query in (FIRST, LATER):
                opened.ask(query, **ASKING)
    else:
        baseline = load_baseline()
        ask_baseline(baseline, video[:WINDOW], FIRST)
        _forget_largest()
        loaded = _resident("VmRSS")
        for query in (FIRST, LATER):
            ask_baseline(baseline, video, query)
    print(json.dumps({"loaded": loaded, "peak": _resident("VmHWM") - loaded}))


if __name__ == "__main__":
    main(sys.argv[1])
