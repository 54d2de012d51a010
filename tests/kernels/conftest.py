"""Fixtures of the kernel tests: where they run, and how close is close enough.

`device`: tests that take it run twice, once as "interpreter" (Triton's interpreter, on the CPU) and
once as "gpu" (compiled); the mode that this process cannot run is skipped with its reason. Triton
binds a kernel to one mode when it is imported, so `pytest -m gpu` on a machine with a GPU and
`TRITON_INTERPRET=1 pytest -m "not gpu"` anywhere are two runs.
`TEMPO_FAST_PTX=sm_90 pytest tests/kernels -m gpu` is a third, anywhere: the "gpu" is `tests/ptx`,
which runs in NumPy what was compiled for one, on the CPU's tensors. TEMPO_FAST_PTX_SEED is a number
by which it chooses what a GPU leaves open.
`interpreted`: whether kernels run in the interpreter. `needs_cuda`: skips a test where the GPU is
`tests/ptx`, which has no streams and graphs. `in_numpy`: whether it is, which takes its time.
`check_indices(when)`: sets when launchers look at indices, which on a GPU they don't by themselves.
`as_good(actual, reference, exact_float64, op)`: the check of `tolerances.py`. Helpers of
this folder are reached by such fixtures or by relative import (`--import-mode=importlib`).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

import pytest
import torch

if not (
    torch.cuda.is_available()
    or os.environ.get("TEMPO_FAST_PTX")
    or "TRITON_INTERPRET" in os.environ
):
    if "triton" in sys.modules:
        raise pytest.UsageError(
            "triton was imported before tests/kernels/conftest.py could choose its interpreter:"
            " set TRITON_INTERPRET=1"
        )
    os.environ["TRITON_INTERPRET"] = "1"

from triton import knobs

from tempo_kernels import launch

from .tolerances import assert_as_good

INTERPRETED = knobs.runtime.interpret
# What compiled kernels run on if not on a GPU: "sm_90", say.
PTX = os.environ.get("TEMPO_FAST_PTX", "")
PTX_SEED = os.environ.get("TEMPO_FAST_PTX_SEED", "0")


def _check_no_device(name: str, tensor: torch.Tensor) -> None:
    """For the launchers' own check: tensors of the machine in NumPy are the CPU's."""
    if tensor.device.type != "cpu":
        raise ValueError(f"{name} is on {tensor.device}; cpu is needed")


if PTX:
    from ..ptx import driver

    if INTERPRETED or PTX not in driver.TARGETS or not PTX_SEED.isdecimal():
        raise pytest.UsageError(
            f"TEMPO_FAST_PTX={PTX} needs one of {', '.join(driver.TARGETS)}, a number as"
            " TEMPO_FAST_PTX_SEED, and no TRITON_INTERPRET=1"
        )
    driver.install(PTX, int(PTX_SEED))
    launch._check_launch_device = _check_no_device

    def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
        terminalreporter.section(f"compiled for {PTX}, run in NumPy")
        for name, count in sorted(driver.LAUNCHES.items()):
            terminalreporter.write_line(f"{name}: {count} launches")


@pytest.fixture(
    scope="session",
    params=["interpreter", pytest.param("gpu", marks=pytest.mark.gpu)],
)
def device(request: pytest.FixtureRequest) -> torch.device:
    """The device of a test's tensors, in each of the two modes."""
    if request.param == "interpreter":
        if not INTERPRETED:
            pytest.skip("the kernels are compiled in this process (TRITON_INTERPRET=1 interprets)")
        return torch.device("cpu")
    if PTX:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        pytest.skip("no CUDA GPU here")
    if INTERPRETED:
        pytest.skip("TRITON_INTERPRET=1: the kernels are interpreted in this process")
    return torch.device("cuda", torch.cuda.current_device())


@pytest.fixture(scope="session")
def interpreted() -> bool:
    return INTERPRETED


@pytest.fixture(scope="session")
def in_numpy() -> bool:
    return bool(PTX)


@pytest.fixture
def needs_cuda() -> None:
    if PTX:
        pytest.skip("TEMPO_FAST_PTX: compiled kernels run in NumPy, without CUDA's own functions")


@pytest.fixture
def check_indices(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    return lambda when: monkeypatch.setattr(launch, "CHECK_INDICES", when)


@pytest.fixture(scope="session")
def as_good() -> Callable[[torch.Tensor, torch.Tensor, torch.Tensor, str], None]:
    """The check that a kernel errs no more than its row of `tolerances.py` allows."""
    return assert_as_good
