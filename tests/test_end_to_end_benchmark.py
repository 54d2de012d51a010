"""The end-to-end comparison runs, so that it doesn't rot."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_on_one_segment(tmp_path):
    pytest.importorskip("pytest_benchmark")
    result = tmp_path / "result.json"
    small = {f"TEMPO_BENCH_{name}": "1" for name in ("SEGMENTS", "ROUNDS", "THREADS")}
    command = ["-m", "pytest", "benchmarks/test_end_to_end.py", f"--benchmark-json={result}"]
    done = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env={**os.environ, **small},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    figures = {
        row["name"]: row["extra_info"] for row in json.loads(result.read_text())["benchmarks"]
    }
    for name in ("test_first_question", "test_later_question"):
        assert figures[name]["speedup"] > 0
        assert figures[name]["baseline"]["stages"]["vision"] > 0
    assert figures["test_later_question"]["engine"]["stages"]["vision"] == 0
    assert figures["test_peak_memory"]["baseline"]["peak"] > 0
