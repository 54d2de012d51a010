"""Where figures come from: machine, versions, commit; and whether a run may be kept."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]
COMMIT = "TEMPO_BENCH_COMMIT"  # names the commit where the files came without their repository
_PACKAGES = (
    "torch",
    "triton",
    "transformers",
    "flash-attn",
    "av",
    "pillow",
    "numpy",
    "decord",
    "torchcodec",
)


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, cwd=ROOT, check=True)
    return done.stdout.strip()


def _commit() -> str | None:
    if os.environ.get(COMMIT):
        return os.environ[COMMIT]
    try:
        return _git("rev-parse", "HEAD")
    except (OSError, subprocess.CalledProcessError):  # files without their repository
        return None


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


def _gpu() -> dict | None:
    if not torch.cuda.is_available():
        return None
    facts = torch.cuda.get_device_properties(0)
    return {
        "name": facts.name,
        "bytes": facts.total_memory,
        "multiprocessors": facts.multi_processor_count,
        "capability": f"{facts.major}.{facts.minor}",
        "driver": _driver(),
        "cuda": torch.version.cuda,
    }


def _as_typed(argument: str) -> str:
    """A command's argument without the folders of this machine."""
    return Path(argument).name if Path(argument).is_absolute() else argument


def _driver() -> str | None:
    if not shutil.which("nvidia-smi"):
        return None
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout.split("\n")[0].strip() if done.returncode == 0 else None


@cache
def provenance(command: str | None = None) -> dict:
    """What is to be known of a run beside its figures; command: where it isn't pytest's."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "command": command or " ".join(map(_as_typed, ["pytest", *sys.argv[1:]])),
        "commit": _commit(),
        "gpu": _gpu(),
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
    if os.environ.get(COMMIT):
        return None
    try:
        changed = _git("status", "--porcelain", "--", ".", ":!benchmarks/results")
    except (OSError, subprocess.CalledProcessError) as error:
        return f"git doesn't know this tree ({error}); {COMMIT}=… says which commit it is"
    return f"there are uncommitted changes:\n{changed}" if changed else None
