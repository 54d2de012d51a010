"""The position table resized to a grid: exactly PyTorch's operations."""

from __future__ import annotations

import pytest
import torch

from tempo_kernels.grid_table import grid_table, grid_table_ref

from .tolerances import limit

DTYPES = [torch.float32, torch.bfloat16]


def make(side, width, dtype, device):
    torch.manual_seed(0)
    return torch.randn(side * side, width).to(device, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("side", "width", "h", "w", "merge"),
    [
        (48, 1024, 2, 2, 2),
        (48, 63, 6, 4, 2),
        (5, 131, 8, 2, 2),  # finer than the table
        (7, 8, 6, 3, 3),
        (3, 8, 3, 3, 1),  # the table itself
        (1, 8, 2, 4, 2),
        (3, 1029, 2, 2, 2),  # more than a block wide
    ],
)
def test_equals_pytorch(device, side, width, h, w, merge, dtype):
    table = make(side, width, dtype, device)
    out = torch.full((h * w, width), float("nan"), dtype=dtype, device=device)
    assert grid_table(table, h, w, merge=merge, out=out) is out
    assert torch.equal(out, grid_table_ref(table, h, w, merge=merge))
    assert torch.equal(grid_table(table, h, w, merge=merge), out)


def test_the_tables_own_grid_is_the_table(device):
    table = make(7, 8, torch.float32, device)
    assert torch.equal(grid_table(table, 7, 7, merge=1), table)


@pytest.mark.parametrize(("h", "w", "merge"), [(6, 10, 2), (12, 3, 3), (5, 4, 1)])
def test_the_reference_resizes_bilinearly(h, w, merge):
    table = make(7, 12, torch.float64, "cpu")
    image = table.view(1, 7, 7, 12).permute(0, 3, 1, 2)
    resized = torch.nn.functional.interpolate(image, (h, w), mode="bilinear", align_corners=True)[
        0
    ].permute(1, 2, 0)  # [h, w, 12]
    blocks = [
        resized[row : row + merge, column : column + merge].reshape(-1, 12)
        for row in range(0, h, merge)
        for column in range(0, w, merge)
    ]
    result = grid_table_ref(table, h, w, merge=merge)
    atol = limit("grid_table: bilinear")
    torch.testing.assert_close(result, torch.cat(blocks), rtol=0, atol=atol)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"table": lambda t: t.half()}, "table is torch.float16"),
        ({"table": lambda t: t[:, ::2]}, "table has strides"),
        ({"table": lambda t: t[:-1]}, "table has 48 rows; a square"),
        ({"table": lambda t: t[:0]}, "table has 0 rows; a square"),
        ({"h": lambda h: 3}, "h is 3; a positive multiple of merge"),
        ({"w": lambda w: 0}, "w is 0; a positive multiple of merge"),
        ({"w": lambda w: 4.0}, "w is 4.0; a positive multiple of merge"),
        ({"merge": lambda m: 0}, "merge is 0"),
        ({"out": lambda o: o[:-1]}, "out has shape"),
        ({"out": lambda o: o.bfloat16()}, "out is torch.bfloat16"),
        ({"out": lambda o: o.to("meta")}, "out is on meta"),
    ],
)
def test_bad_input_is_a_value_error(device, change, message):
    table = make(7, 8, torch.float32, device)
    given = {"table": table, "h": 4, "w": 6, "merge": 2, "out": table.new_empty(24, 8)}
    given = {name: change.get(name, lambda t: t)(value) for name, value in given.items()}
    with pytest.raises(ValueError, match=message):
        grid_table(**given)
