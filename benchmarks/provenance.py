"""Where figures come from: machine, versions, commit; and whether a run may be kept."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).parents[1]
_PACKAGES = ("torch", "av", "pillow", "numpy", "decord", "torchcodec")


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, cwd=ROOT, check=True)
    return done.stdout.strip()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def provenance() -> dict:
    """What is to be known of a run beside its figures."""
    return {
        "commit": _git("rev-parse", "HEAD"),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "versions": {package: _version(package) for package in _PACKAGES},
        "load_average": os.getloadavg(),
    }


def why_not_clean() -> str | None:
    """Why the figures of this tree can't be attributed to a commit; None where they can."""
    try:
        changed = _git("status", "--porcelain", "--", ".", ":!benchmarks/results")
    except (OSError, subprocess.CalledProcessError) as error:
        return f"git doesn't know this tree ({error})"
    return f"there are uncommitted changes:\n{changed}" if changed else None
