"""What the suites share: the models, the run's ceilings, rows of figures and where they go."""

from __future__ import annotations

import os
import re
from itertools import groupby
from pathlib import Path

import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # kernels are checked, never timed, there

from tempo_fast.cli.files import dumps, write_atomically

from . import settings, summary
from .agreement import Rounding, measure_rounding
from .ceilings import Ceilings, measure_ceilings
from .compare import Comparison
from .device_timing import ColdCache, copy_bandwidth
from .provenance import provenance
from .sizes import Models, load_size
from .upstream import Upstream

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SCHEMA = 1
_ROWS: list[dict] = []
_VIDEO_ROWS: list[dict] = []
_KERNEL_ROWS: list[dict] = []
_CEILINGS: list[dict] = []
_written = 0


def pytest_addoption(parser) -> None:
    settings.add_options(parser)


def pytest_configure(config) -> None:
    settings.check_options(config)
    if config.getoption("threads"):
        torch.set_num_threads(config.getoption("threads"))


def pytest_generate_tests(metafunc) -> None:
    if "models" in metafunc.fixturenames:
        metafunc.parametrize("models", settings.sizes(metafunc.config), indirect=True)
    if "frames" in metafunc.fixturenames:
        cases = settings.cases(metafunc.config)
        if "budget" in metafunc.fixturenames:
            metafunc.parametrize(("frames", "budget"), cases)
        else:
            metafunc.parametrize("frames", list(dict.fromkeys(frames for frames, _ in cases)))


def pytest_runtest_teardown(item) -> None:
    """Write what was measured so far: a run that is cut short keeps it."""
    global _written
    if len(rows := _KERNEL_ROWS + _ROWS) > _written:
        _written = len(rows)
        _write_rows(item.session, rows)


def pytest_sessionfinish(session, exitstatus) -> None:
    """Rows are of tests that passed; the failures are counted."""
    if rows := _KERNEL_ROWS + _ROWS:
        _write_rows(session, rows)
    if session.config.getoption("save_video") and exitstatus == 0:
        for file, rows in groupby(_VIDEO_ROWS, key=lambda row: row["file"]):
            record = {"schema": SCHEMA, "kind": "video", **provenance(), "rows": list(rows)}
            name = "-".join(re.findall(r"\w+", f"video {file}"))
            _write(settings.RESULTS / f"{name}.json", record)


def _write_rows(session, rows: list[dict]) -> None:
    record = {
        "schema": SCHEMA,
        "kind": "benchmarks",
        **provenance(),
        "ceilings": _CEILINGS,
        "failed": session.testsfailed,
        "rows": rows,
    }
    for path in settings.destinations(session.config):
        _write(path, record)


def _write(path: Path, record: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, f"{dumps(record, indent=1)}\n".encode())


def pytest_terminal_summary(terminalreporter) -> None:
    summary.report(terminalreporter, _ROWS, _KERNEL_ROWS, _VIDEO_ROWS)


@pytest.fixture(scope="session")
def cold_cache() -> ColdCache:
    return ColdCache()


@pytest.fixture(scope="session")
def ceiling(cold_cache) -> float:
    """Copy bandwidth of this GPU in this run, bytes a second."""
    return copy_bandwidth(cold_cache)


@pytest.fixture(scope="session")
def rows() -> list[dict]:
    """Where a comparison leaves its figures."""
    return _ROWS


@pytest.fixture(scope="session")
def kernel_rows() -> list[dict]:
    """Where the kernels' benchmarks leave theirs."""
    return _KERNEL_ROWS


@pytest.fixture(scope="session")
def video_rows() -> list[dict]:
    """Where the video benchmarks leave theirs."""
    return _VIDEO_ROWS


@pytest.fixture(scope="session")
def models(request) -> Models:
    """Engine and baseline of one size around the same weights."""
    dtype = request.config.getoption("dtype")
    return load_size(request.param, DEVICE, getattr(torch, dtype) if dtype else None)


@pytest.fixture(scope="session")
def rounding(models) -> Rounding:
    return measure_rounding(models)


@pytest.fixture(scope="session")
def ceilings(models) -> Ceilings:
    measured = measure_ceilings(models.device, models.dtype)
    _CEILINGS.append({"size": models.size} | measured.as_row())
    return measured


@pytest.fixture(scope="session")
def new_tokens(request) -> int:
    return settings.new_tokens(request.config)


@pytest.fixture(scope="session")
def upstream(request, models) -> Upstream | None:
    """The published code itself, where --upstream names a checkout of it."""
    path = request.config.getoption("upstream")
    return Upstream(path, models) if path else None


@pytest.fixture
def compare(request, benchmark, models, ceilings, rows) -> Comparison:
    """Times engine and opponents in turns and keeps the row."""
    return Comparison(models, ceilings, request.config.getoption("rounds"), benchmark, rows)
