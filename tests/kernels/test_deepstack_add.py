"""Deepstack's add at the visual tokens: exactly PyTorch's, and nothing else touched."""

from __future__ import annotations

import pytest
import torch

from tempo_kernels.deepstack_add import deepstack_add, deepstack_add_ref


def make(rows, count, width, dtype, device):
    torch.manual_seed(0)
    index = torch.randperm(rows)[:count].sort().values
    hidden, features = torch.randn(rows, width), torch.randn(count, width)
    return hidden.to(device, dtype), index.to(device), features.to(device, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("rows", "count", "width"),
    [(1, 1, 1), (131, 63, 131), (131, 131, 63), (63, 1, 2048), (3, 2, 2 * 2048 + 5)],
)
def test_equals_pytorch(device, rows, count, width, dtype):
    hidden, index, features = make(rows, count, width, dtype, device)
    expected = deepstack_add_ref(hidden.clone(), index, features)
    assert deepstack_add(hidden, index, features) is hidden
    assert torch.equal(hidden, expected)


@pytest.mark.parametrize("place", [-1, 5, 2**40])
def test_a_place_out_of_range_is_left_out(device, check_indices, place):
    check_indices("never")
    buffer = torch.full((7, 8), 5.0, device=device)
    buffer[1:6] = 0
    hidden = buffer[1:6]  # rows before and after that would show an addition
    index = torch.tensor(sorted((2, place)), device=device)
    deepstack_add(hidden, index, torch.ones(2, 8, device=device))
    assert hidden.sum(1).tolist() == [0, 0, 8, 0, 0]
    assert (buffer == 5).sum() == 16


def test_no_places(device):
    hidden, index, features = make(5, 0, 8, torch.float32, device)
    before = hidden.clone()
    assert torch.equal(deepstack_add(hidden, index, features), before)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden": lambda t: t.half()}, "hidden is torch.float16"),
        ({"hidden": lambda t: t.t()}, "hidden has strides"),
        ({"hidden": lambda t: t[0]}, "hidden has shape"),
        ({"hidden": lambda t: t[:3]}, "index has 4 places in 3 rows"),
        ({"index": lambda t: t.int()}, "index is torch.int32"),
        ({"index": lambda t: t[:, None]}, "index has shape"),
        ({"index": lambda t: t + 7}, "index has [0-9]+; 0 to 7 is needed"),
        ({"index": lambda t: t.to("meta")}, "index is on meta"),
        ({"features": lambda t: t[:-1]}, "features has shape"),
        ({"features": lambda t: t.bfloat16()}, "features is torch.bfloat16"),
    ],
)
def test_bad_input_is_a_value_error(device, check_indices, change, message):
    check_indices("always")
    names = ("hidden", "index", "features")
    given = dict(zip(names, make(8, 4, 8, torch.float32, device), strict=True))
    given = {name: change.get(name, lambda t: t)(value) for name, value in given.items()}
    with pytest.raises(ValueError, match=message):
        deepstack_add(**given)
