"""benchmarks/gpu_suite.sh: its dry run works, and no step stops another."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .needs import needs_av

ROOT = Path(__file__).parents[1]
SUITE = ROOT / "benchmarks" / "gpu_suite.sh"
needs_timeout = pytest.mark.skipif(not shutil.which("timeout"), reason="needs coreutils' timeout")


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["bash", str(SUITE), *arguments],
        env={**os.environ, "PYTHON": sys.executable, **environment},
        capture_output=True,
        text=True,
        timeout=900,
    )


@needs_timeout
@needs_av
def test_dry_run(tmp_path):
    """Some of its steps; `benchmarks/gpu_suite.sh --dry` runs all."""
    steps = "environment,kernels,sanitizer,bench-kernels,bench-stages,profile,report"
    done = run("--dry", "--only", steps, str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    suite = json.loads((tmp_path / "suite.json").read_text())
    assert [(step["name"], step["status"]) for step in suite["steps"]] == [
        ("environment", "passed"),
        ("kernels", "passed"),
        ("sanitizer", "not run"),
        ("bench-kernels", "passed"),
        ("bench-stages", "passed"),
        ("profile", "passed"),
    ]
    rows = json.loads((tmp_path / "stages.json").read_text())["rows"]
    assert [row["name"] for row in rows] == [
        *("decode", "resize", "vision", "compress", "compress, later", "allocate", "assemble"),
        *("prefill", "decode step"),
    ]
    for row in rows:
        assert row["baseline"]["ratio"] > 0
        assert row["name"] == "decode" or row["share_of_floor"] > 0
    assert "stages vision" in done.stdout
    assert "stages: vision" in (tmp_path / "report.md").read_text()
    assert "passed" in (tmp_path / "logs" / "kernels.log").read_text()
    assert not (tmp_path / "steps.tsv").exists()


FAKE = """#!/usr/bin/env bash
case "$*" in
  *suite_summary*) exec "{python}" "$@" ;;
  *test_golden.py*) echo "a golden case broke"; exit 1 ;;
  *test_stages.py*) sleep 60 ;;
  *) echo "$@" ;;
esac
"""


@needs_timeout
def test_a_failure_and_a_hang_stop_nothing(tmp_path):
    fake = tmp_path / "python"
    fake.write_text(FAKE.format(python=sys.executable))
    fake.chmod(0o755)
    out = tmp_path / "out"
    done = run("--dry", str(out), PYTHON=str(fake), TEMPO_SUITE_SECONDS="3")
    assert done.returncode == 1
    suite = json.loads((out / "suite.json").read_text())
    found = {step["name"]: step["status"] for step in suite["steps"]}
    assert found["environment"] == found["kernels"] == "passed"
    assert found["golden"] == "failed" and found["gpu-tests"] == "passed"
    assert found["bench-stages"] == "out of time"
    assert found["bench-questions"] == found["profile"] == "no time left"
    assert "a golden case broke" in done.stdout  # the end of its log


def test_an_unknown_option_is_refused(tmp_path):
    done = run("--fast", str(tmp_path))
    assert done.returncode == 2 and "unknown option --fast" in done.stderr
