"""Times each kernel against its reference, torch.compile of it and, where there are any, other
launches for the same result and the published code's way.

`pytest benchmarks/test_kernels.py --benchmark-json=FILE`. On a GPU: device time of one call with a
cold L2 cache, as a share of the copy bandwidth measured in the same run; a kernel or compiled
reference whose result is wrong gets no row but a failure. Elsewhere: the references on small sizes.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import pytest
import torch

from .case import Call, Case
from .device_timing import DeviceMoment, host_seconds, replayable
from .kernel_cases import CASES

CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if CUDA else "cpu")
ROUNDS = 50
needs_gpu = pytest.mark.skipif(not CUDA, reason="not measured: no CUDA GPU here")


@pytest.mark.parametrize(
    ("case", "implementation"),
    [
        pytest.param(case, name, marks=marks, id=f"{case.name(DEVICE)}-{name}")
        for case in CASES
        for name, marks in (
            ("reference", ()),
            ("compiled", needs_gpu),
            ("kernel", needs_gpu),
            *((other, needs_gpu) for other in case.others),
            *((("published", ()),) if case.published else ()),
        )
    ],
)
def test_speed(benchmark, request, case: Case, implementation: str):
    benchmark.group = case.name(DEVICE)
    call = case.call(DEVICE)
    function = _implementation(call, implementation)
    if implementation != "reference":
        check(function(*call.arguments, **call.keywords), case)
    if CUDA:
        _time_on_device(benchmark, request, case, call, function, implementation)
    else:
        benchmark.pedantic(
            function, call.arguments, call.keywords, rounds=5, warmup_rounds=1, iterations=1
        )
        benchmark.extra_info |= {"device": "cpu", "torch": torch.__version__}


def _implementation(call: Call, name: str) -> Callable[..., Any]:
    if name == "compiled":
        torch.compiler.reset()
        return torch.compile(call.reference, dynamic=False)
    ways = {"reference": call.reference, "kernel": call.kernel, "published": call.published}
    return (ways | call.others)[name]


def _time_on_device(benchmark, request, case, call, function, implementation) -> None:
    cold_cache, ceiling = request.getfixturevalue("cold_cache"), request.getfixturevalue("ceiling")
    run, captured = replayable(lambda: function(*call.arguments, **call.keywords))
    benchmark._timer = DeviceMoment
    benchmark.pedantic(run, setup=cold_cache, rounds=ROUNDS, warmup_rounds=3, iterations=1)
    seconds = statistics.median(benchmark.stats.stats.data)
    row = {
        "suite": "kernels",
        "name": case.name(DEVICE),
        "implementation": implementation,
        "device": torch.cuda.get_device_name(),
        "captured": captured,
        "device_us": seconds * 1e6,
        "host_us": host_seconds(lambda: function(*call.arguments, **call.keywords)) * 1e6,
        "bytes": call.moved,
        "gb_per_s": call.moved / seconds / 1e9,
        "share_of_copy": call.moved / seconds / ceiling,
        "copy_gb_per_s": ceiling / 1e9,
        "torch": torch.__version__,
    }
    benchmark.extra_info |= row
    request.getfixturevalue("kernel_rows").append(row)


def check(actual: Any, case: Case) -> None:
    """Fails unless `actual` is what the reference gives for the same arguments."""
    call = case.call(DEVICE)
    if call.expected:
        expected = call.expected(actual)
    else:
        expected = call.reference(*call.arguments, **call.keywords)
    for got, want in zip(_tensors(actual), _tensors(expected), strict=True):
        if got is None:  # a part that the published code has no use for
            continue
        got = got.to(want.device)
        assert got.dtype == want.dtype
        if call.exact or not want.is_floating_point():
            assert torch.equal(got, want), f"{case.op} is not exact"
        else:
            # Every case rounds to bfloat16: one step may differ within, and then one at the end.
            step = 2 * torch.finfo(torch.bfloat16).eps
            size = want.float().square().mean().sqrt().item()
            torch.testing.assert_close(got, want, rtol=step, atol=step * size)


def _tensors(result: Any) -> tuple[torch.Tensor | None, ...]:
    return (result,) if isinstance(result, torch.Tensor) else tuple(result)
