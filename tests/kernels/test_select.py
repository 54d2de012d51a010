"""The selection kernel against its reference, float64 and the strategies that run on the host."""

from __future__ import annotations

import pytest
import torch

from tempo_fast.compression.allocation import Allocation
from tempo_fast.compression.strategies import Strategy
from tempo_kernels.select import select, select_ref

from .tolerances import assert_rounds_alike

EPS = 1e-6
TAKES = pytest.mark.parametrize("take", ["head", "tail"])
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])


def memory_tokens(device, dtype, *, segments=5, tokens=16, width=64, share=0.6):
    """memory, allocations (some 0, some all), offsets, weight, and the total."""
    make = torch.Generator().manual_seed(segments + tokens + width)
    memory = 3 * torch.randn(segments, tokens, width, generator=make)
    kept = torch.randint(tokens + 1, (segments,), generator=make)
    kept *= torch.rand(segments, generator=make) < share
    kept[segments // 2] = tokens
    offsets = torch.cat((torch.zeros(1, dtype=torch.int64), kept.cumsum(0)))
    weight = 1 + 0.2 * torch.randn(width, generator=make)
    arguments = (memory.to(dtype), kept, offsets, weight.to(dtype))
    return *(tensor.to(device) for tensor in arguments), int(offsets[-1])


def exact_norm(x, weight):
    x = x.double()
    return x / (x.square().mean(-1, keepdim=True) + EPS).sqrt() * weight.double()


@TAKES
@DTYPES
@pytest.mark.parametrize(
    ("segments", "tokens", "width"),
    [(1, 1, 1), (1, 128, 64), (3, 16, 2048), (63, 7, 131), (131, 3, 64)],
)
def test_as_good_as_pytorch(device, as_good, take, dtype, segments, tokens, width):
    *arguments, total = memory_tokens(device, dtype, segments=segments, tokens=tokens, width=width)
    memory, kept, _, weight = arguments
    out = torch.full((total, width), float("nan"), dtype=dtype, device=device)
    rows = select(*arguments, EPS, total=total, take=take, out=out)
    assert rows is out
    source = Strategy(take).select(memory, Allocation.of(kept.tolist(), device))
    reference = select_ref(*arguments, EPS, total=total, take=take)
    as_good(rows, reference, exact_norm(source, weight), "select")
    assert_rounds_alike(rows, reference)
    bare = select(*arguments, EPS, total=total, take=take, normalize=False)
    assert torch.equal(bare, source)
    assert torch.equal(select_ref(*arguments, EPS, total=total, take=take, normalize=False), source)


@pytest.mark.parametrize("segments", [64, 128, 129, 4095, 4096])
def test_finds_the_segment_among_many(device, segments):
    """Rows of the first and last segments and of some between, with none of most others."""
    memory, kept, _, weight, _ = memory_tokens(
        device, torch.float32, segments=segments, tokens=2, width=8, share=0
    )
    kept[[0, 1, 62, 63, segments - 2, segments - 1]] = torch.tensor([1, 2, 1, 2, 1, 2]).to(device)
    kept[64 * torch.arange(1, segments // 64)] = 1
    offsets = torch.nn.functional.pad(kept.cumsum(0), (1, 0))
    total = int(offsets[-1])
    rows = select(memory, kept, offsets, weight, EPS, total=total, normalize=False)
    assert torch.equal(rows, Strategy("head").select(memory, Allocation.of(kept.tolist(), device)))


@TAKES
@DTYPES
def test_a_view_of_longer_segments(device, take, dtype):
    """What comes of a pass over query and memory tokens: segments further apart than M rows."""
    memory, *rest, total = memory_tokens(device, dtype)
    longer = torch.full((5, 20, 72), float("nan"), dtype=dtype, device=device)
    longer[:, 3:19, :64] = memory
    view = longer[:, 3:19, :64]
    assert not view.is_contiguous()
    rows = select(view, *rest, EPS, total=total, take=take)
    assert torch.equal(rows, select(memory, *rest, EPS, total=total, take=take))


def test_rows_without_a_source_are_nan(device, check_indices):
    check_indices("never")
    memory, kept, offsets, weight, total = memory_tokens(device, torch.float32)
    rows = select(memory, kept, offsets, weight, EPS, total=total + 3)
    assert rows[total:].isnan().all() and rows[:total].isfinite().all()
    fewer = select(memory, kept, offsets, weight, EPS, total=total - 1)
    assert torch.equal(fewer, rows[: total - 1])

    kept, offsets = (torch.tensor(x, device=device) for x in ([2, 18], [0, 2, 20]))
    for take, first in (("head", 18), ("tail", 2)):
        rows = select(memory[:2], kept, offsets, weight, EPS, total=20, take=take)
        lost = rows.isnan().all(-1).nonzero().flatten().tolist()
        assert lost == [first, first + 1]
        bare = select(memory[:2], kept, offsets, weight, EPS, total=20, take=take, normalize=False)
        assert torch.equal(bare.isnan(), rows.isnan())


def test_nothing_kept(device):
    memory, kept, offsets, weight, _ = memory_tokens(device, torch.float32)
    rows = select(memory, 0 * kept, 0 * offsets, weight, EPS, total=0)
    assert rows.shape == (0, 64)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"memory": lambda x: x.double()}, "memory is torch.float64"),
        ({"memory": lambda x: x[0]}, "memory has shape"),
        ({"memory": lambda x: x[1:]}, "memory has shape"),
        ({"memory": lambda x: x[..., ::2]}, "memory has strides"),
        ({"memory": lambda x: x[..., :0]}, "memory has width 0"),
        ({"allocations": lambda x: x.int()}, "allocations is torch.int32"),
        ({"allocations": lambda x: x + 16}, "allocations has [0-9]+; 0 to 16 is needed"),
        ({"allocations": lambda x: x[:0]}, "allocations has 0 segments"),
        ({"offsets": lambda x: x[:-1]}, "offsets has shape"),
        ({"offsets": lambda x: x - 1}, "offsets has -1; 0 to [0-9]+ is needed"),
        ({"offsets": lambda x: x + 10**9}, "offsets has 1[0-9]{9}; 0 to"),
        ({"weight": lambda x: x[1:]}, "weight has shape"),
        ({"weight": lambda x: x.to("meta")}, "weight is on meta"),
        ({"total": lambda x: -1}, "total is -1.*relevance was not finite"),
        ({"take": lambda x: "middle"}, "take is 'middle'"),
        ({"out": lambda x: torch.empty(3, 64)}, "out has shape"),
    ],
)
def test_bad_input_is_a_value_error(device, check_indices, change, message):
    check_indices("always")
    names = ("memory", "allocations", "offsets", "weight", "total")
    arguments = dict(zip(names, memory_tokens(device, torch.float32), strict=True))
    arguments |= {"eps": EPS, "take": "head", "out": None}
    for name, wrong in change.items():
        arguments[name] = wrong(arguments[name])
    with pytest.raises(ValueError, match=message):
        select(**arguments)
