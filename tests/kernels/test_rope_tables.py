"""Rotary tables against PyTorch, the published modules and float64."""

from __future__ import annotations

import pytest
import torch
from transformers import Qwen3Config
from transformers.models.qwen3.modeling_qwen3 import Qwen3RotaryEmbedding
from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLTextConfig
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLTextRotaryEmbedding

from tempo_kernels.rope_tables import rope_tables, rope_tables_ref

from .tolerances import assert_rounds_alike, limit

DTYPES = [torch.float32, torch.bfloat16]


def make(half, device, *, axes=True):
    """Frequencies of heads of 2 · half and, for 3-D positions, their axes."""
    frequency = 5e6 ** -(torch.arange(half, dtype=torch.float32) / half)
    axis = torch.arange(half) % 3 if axes else None
    return frequency.to(device), axis.to(device) if axes else None


def exact(positions, frequency, axis):
    """cos, sin in float64 of the angles as float32 has them."""
    placed = positions[:, None].float() if axis is None else positions.float()[axis].T
    angle = (placed * frequency).double().repeat(1, 2)
    return angle.cos(), angle.sin()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("tokens", "half", "axes"),
    [
        (1, 64, True),
        (1, 64, False),
        (63, 64, True),
        (131, 64, False),
        (131, 5, True),
        (63, 1, False),
    ],
)
def test_as_good_as_pytorch(device, as_good, tokens, half, axes, dtype):
    torch.manual_seed(0)
    frequency, axis = make(half, device, axes=axes)
    positions = torch.randint(0, 40000, (3, tokens) if axes else (tokens,), device=device)
    shape = (tokens, 2 * half)
    out = [torch.full(shape, float("nan"), dtype=dtype, device=device) for _ in range(2)]
    tables = rope_tables(positions, frequency, axis, dtype, out=out)
    references = rope_tables_ref(positions, frequency, axis, dtype)
    for table, given, reference, values in zip(
        tables, out, references, exact(positions, frequency, axis), strict=True
    ):
        assert table is given
        as_good(table, reference, values, "rope_tables")
        assert_rounds_alike(table, reference)  # the interpreter's own rounding would truncate


@pytest.mark.parametrize("axes", [True, False])
def test_positions_may_be_views(device, axes):
    frequency, axis = make(16, device, axes=axes)
    line = torch.arange(100, 140, device=device)
    if axes:
        views = [line[:20].expand(3, -1), line[:39].view(13, 3).T, line[::2][:18].view(3, 6)]
    else:
        views = [line[::2], line[3:], line[:1].expand(9)]
    for view in views:
        packed = rope_tables(view.clone(), frequency, axis, torch.float32)
        for table, expected in zip(
            rope_tables(view, frequency, axis, torch.float32), packed, strict=True
        ):
            assert torch.equal(table, expected)


def test_large_angles_keep_their_accuracy(device):
    positions = torch.tensor([105615, 10**6, 2**24 - 1, 2**31 + 11], device=device)
    one = torch.ones(1, device=device)
    tables = rope_tables(positions, one, None, torch.float32)
    for table, values in zip(tables, exact(positions, one, None), strict=True):
        atol = limit("rope_tables: large angles")
        torch.testing.assert_close(table.double(), values, rtol=0, atol=atol)


def test_no_tokens(device):
    frequency, axis = make(64, device)
    positions = torch.zeros(3, 0, dtype=torch.int64, device=device)
    tables = rope_tables(positions, frequency, axis, torch.bfloat16)
    assert [table.shape for table in tables] == [(0, 128)] * 2


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_plain_reference_is_the_published_module(dtype):
    rope = {"rope_type": "default", "rope_theta": 1e6}
    module = Qwen3RotaryEmbedding(Qwen3Config(head_dim=32, rope_parameters=rope))
    positions = torch.randint(0, 40000, (63,))
    tables = rope_tables_ref(positions, module.inv_freq, None, dtype)
    expected = module(torch.empty(0, dtype=dtype), positions[None])
    for table, theirs in zip(tables, expected, strict=True):
        assert torch.equal(table, theirs[0])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_three_dimensional_reference_is_the_published_module(dtype):
    rope = {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [6, 5, 5]}
    module = Qwen3VLTextRotaryEmbedding(Qwen3VLTextConfig(head_dim=32, rope_parameters=rope))
    axis = torch.arange(16) % 3
    axis[15] = 0  # sections 6, 5, 5: height and width end at 15
    positions = torch.randint(0, 40000, (3, 63))
    tables = rope_tables_ref(positions, module.inv_freq, axis, dtype)
    expected = module(torch.empty(0, dtype=dtype), positions[:, None])
    for table, theirs in zip(tables, expected, strict=True):
        assert torch.equal(table, theirs[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"positions": lambda p: p.int()}, "positions is torch.int32"),
        ({"positions": lambda p: p[0]}, r"positions has shape \[4\]; \[3, any\] is needed"),
        ({"axis": lambda a: None}, r"positions has shape \[3, 4\]; \[any\] is needed"),
        ({"axis": lambda a: a[:-1]}, "axis has shape"),
        ({"axis": lambda a: a.int()}, "axis is torch.int32"),
        ({"axis": lambda a: a + 1}, "axis has 3; 0 to 2 is needed"),
        ({"frequency": lambda f: f.double()}, "frequency is torch.float64"),
        ({"frequency": lambda f: f.to("meta")}, "frequency is on meta"),
        ({"dtype": lambda d: torch.float16}, "dtype is torch.float16"),
        ({"out": lambda o: (o[0], o[1].bfloat16())}, r"out\[1\] is torch.bfloat16"),
        ({"out": lambda o: (o[0][:-1], o[1])}, r"out\[0\] has shape"),
    ],
)
def test_bad_input_is_a_value_error(device, check_indices, change, message):
    check_indices("always")
    frequency, axis = make(8, device)
    positions = torch.arange(12, device=device).view(3, 4)
    given = {"positions": positions, "frequency": frequency, "axis": axis, "dtype": torch.float32}
    given["out"] = tuple(torch.empty(4, 16, device=device) for _ in range(2))
    given = {name: change.get(name, lambda t: t)(value) for name, value in given.items()}
    with pytest.raises(ValueError, match=message):
        rope_tables(**given)
