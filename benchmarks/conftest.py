"""The run's measured ceiling, and one line a figure at the end: time, bandwidth, speed-ups."""

from __future__ import annotations

import json
import os

import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # kernels are checked, never timed, there

from .device_timing import ColdCache, copy_bandwidth
from .provenance import ROOT, provenance, why_not_clean

_ROWS: list[dict] = []
_VIDEO_ROWS: list[dict] = []


def pytest_addoption(parser) -> None:
    group = parser.getgroup("tempo-fast benchmarks")
    group.addoption("--smoke", action="store_true", help="video: seconds instead of an hour")
    group.addoption("--video-rounds", type=int, default=2, help="video: runs of every way")
    group.addoption(
        "--save-video", action="store_true", help="video: keep the figures in benchmarks/results"
    )


def pytest_configure(config) -> None:
    if config.getoption("save_video"):
        if config.getoption("smoke"):
            raise pytest.UsageError("--save-video keeps no figures of --smoke")
        if why := why_not_clean():
            raise pytest.UsageError(f"--save-video needs a clean commit: {why}")


def pytest_sessionfinish(session, exitstatus) -> None:
    if session.config.getoption("save_video") and _VIDEO_ROWS and exitstatus == 0:
        path = ROOT / "benchmarks" / "results" / "video.json"
        path.parent.mkdir(exist_ok=True)
        text = json.dumps({**provenance(), "rows": _VIDEO_ROWS}, indent=1)
        path.write_text(text + "\n", "utf-8")


@pytest.fixture(scope="session")
def cold_cache() -> ColdCache:
    return ColdCache()


@pytest.fixture(scope="session")
def ceiling(cold_cache) -> float:
    """Copy bandwidth of this GPU in this run, bytes a second."""
    return copy_bandwidth(cold_cache)


@pytest.fixture(scope="session")
def rows() -> list[dict]:
    """Where a benchmark leaves its figures for the summary."""
    return _ROWS


@pytest.fixture(scope="session")
def video_rows() -> list[dict]:
    """Where the video benchmarks leave theirs."""
    return _VIDEO_ROWS


def _report_video(terminalreporter) -> None:
    terminalreporter.section("video: to the last patch")
    for row in _VIDEO_ROWS:
        start = f"{row['file']:32} {row['way']:11}"
        if "missing" in row:
            terminalreporter.write_line(f"{start} not measured: {row['missing']}")
            continue
        terminalreporter.write_line(
            f"{start} {row['seconds']:7.2f} s, {1 / row['ratios']['seconds']:5.2f} times as fast "
            f"as {row['against']}; first segment {row['first_segment_seconds']:6.2f} s, "
            f"CPU {row['cpu_seconds']:7.2f} s, peak {row['peak_bytes'] / 1e9:.2f} GB"
        )


def pytest_terminal_summary(terminalreporter) -> None:
    if _VIDEO_ROWS:
        _report_video(terminalreporter)
    if not torch.cuda.is_available():
        terminalreporter.write_line(
            "no CUDA GPU: references timed on the CPU at small sizes; kernels not measured"
        )
    if not _ROWS:
        return
    terminalreporter.section(f"kernels on {torch.cuda.get_device_name()}")
    for row in _ROWS:
        speed = f"{row['gb_per_s']:8.0f} GB/s = {row['share_of_copy']:4.0%} of copy"
        where = "" if row["captured"] else ", not capturable"
        terminalreporter.write_line(
            f"{row['name']:48} {row['implementation']:10} {row['device_us']:9.1f} µs {speed}"
            f"  called and awaited {row['host_us']:.1f} µs{where}"
        )
