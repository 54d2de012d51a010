"""benchmarks/sanitize.sh: which tools it runs, and that what one finds isn't lost."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "sanitize.sh"
SMOKE = "-m tempo_kernels.smoke"

FAKE = """#!/bin/sh
echo "$@"
case "$*" in *"--tool {broken} "*) echo "one hazard"; exit 1 ;; esac
"""


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["bash", str(SCRIPT), *arguments],
        env={**os.environ, "PYTHON": "python", **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.fixture
def sanitizer(tmp_path):
    """sanitizer(broken) → the PATH with a compute-sanitizer, one tool of which finds something."""

    def make(broken: str = "none") -> str:
        fake = tmp_path / "compute-sanitizer"
        fake.write_text(FAKE.format(broken=broken))
        fake.chmod(0o755)
        return f"{tmp_path}{os.pathsep}{os.environ['PATH']}"

    return make


def test_dry_prints_a_command_a_tool():
    tool = "compute-sanitizer --tool"
    assert run("--dry").stdout.splitlines() == [
        f"{tool} memcheck --error-exitcode 1 --report-api-errors no python {SMOKE}",
        f"{tool} racecheck --error-exitcode 1 python {SMOKE}",
        f"{tool} synccheck --error-exitcode 1 python {SMOKE}",
    ]
    named = run("initcheck", "--dry", "racecheck").stdout.splitlines()
    assert [line.split()[2] for line in named] == ["initcheck", "racecheck"]


def test_every_tool_runs_and_is_told_of(sanitizer):
    done = run(PATH=sanitizer())
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[::2] == [
        f"{tool}: nothing found" for tool in ("memcheck", "racecheck", "synccheck")
    ]
    assert lines[1::2] == [line.split(" ", 1)[1] for line in run("--dry").stdout.splitlines()]


@pytest.mark.parametrize("broken", ["memcheck", "racecheck", "synccheck"])
def test_what_one_tool_finds_is_the_exit_status(sanitizer, broken):
    done = run(PATH=sanitizer(broken))
    assert done.returncode == 1
    assert f"{broken}: failed" in done.stdout and "one hazard" in done.stdout
    assert done.stdout.count("nothing found") == 2


def test_bad_options_and_a_missing_sanitizer_are_said(tmp_path):
    for wrong in ("--fast", "leakcheck"):
        done = run(wrong)
        assert done.returncode == 2 and f"neither an option nor a tool: {wrong}" in done.stderr
    for name in ("bash", "dirname"):
        (tmp_path / name).symlink_to(shutil.which(name))
    done = run(PATH=str(tmp_path))
    assert done.returncode == 2 and "there is no compute-sanitizer" in done.stderr
