"""The run's measured ceiling, and one line a kernel at the end: time, bandwidth, speed-ups."""

from __future__ import annotations

import os

import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # kernels are checked, never timed, there

from .device_timing import ColdCache, copy_bandwidth

_ROWS: list[dict] = []


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


def pytest_terminal_summary(terminalreporter) -> None:
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
