"""The kernels' benchmarks compare results before they time."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
if str(ROOT) not in sys.path:  # the benchmarks are installed nowhere
    sys.path.insert(0, str(ROOT))

from benchmarks.kernel_cases import CASES
from benchmarks.test_kernels import DEVICE, check

(TRIO,) = (case for case in CASES if case.op == "trio")


@pytest.mark.skipif(DEVICE.type == "cuda", reason="small sizes are those of a CPU")
def test_the_published_way_has_the_trios_results():
    call = TRIO.call(DEVICE)
    scores, kept, none, rows = result = call.published(*call.arguments)
    assert none is None and kept.sum() == len(rows) == 256
    check(result, TRIO)
    with pytest.raises(AssertionError):
        check((scores, kept.roll(1), None, rows), TRIO)
    with pytest.raises(AssertionError):
        check((scores, kept, None, rows.roll(1, 0)), TRIO)
    with pytest.raises(AssertionError):
        check((torch.ones_like(scores), kept, None, rows), TRIO)


def test_what_has_other_ways_says_so():
    for case in CASES:
        call = case.call(DEVICE)
        assert (call.published is not None) == case.published, case.op
        assert tuple(call.others) == case.others, case.op
