"""Fixtures of the kernel tests: where they run, and how close is close enough.

`device`: tests that take it run twice, once as "interpreter" (Triton's interpreter, on the CPU) and
once as "gpu" (compiled); the mode that this process cannot run is skipped with its reason. Triton
binds a kernel to one mode when it is imported, so `pytest -m gpu` on a machine with a GPU and
`TRITON_INTERPRET=1 pytest -m "not gpu"` anywhere are two runs.
`interpreted`: whether kernels run in the interpreter.
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

if not torch.cuda.is_available() and "TRITON_INTERPRET" not in os.environ:
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
    if not torch.cuda.is_available():
        pytest.skip("no CUDA GPU here")
    if INTERPRETED:
        pytest.skip("TRITON_INTERPRET=1: the kernels are interpreted in this process")
    return torch.device("cuda", torch.cuda.current_device())


@pytest.fixture(scope="session")
def interpreted() -> bool:
    return INTERPRETED


@pytest.fixture
def check_indices(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    return lambda when: monkeypatch.setattr(launch, "CHECK_INDICES", when)


@pytest.fixture(scope="session")
def as_good() -> Callable[[torch.Tensor, torch.Tensor, torch.Tensor, str], None]:
    """The check that a kernel errs no more than its row of `tolerances.py` allows."""
    return assert_as_good
