"""Validation before a launch, and the comparison that the kernel tests rely on."""

from __future__ import annotations

import pytest
import torch

from tempo_kernels import launch
from tempo_kernels.launch import INTERPRETED, check, check_tensor


def test_a_fitting_tensor_passes(device):
    tensor = torch.zeros(3, 4, device=device)
    check_tensor("x", tensor, shape=(None, 4), dtypes=torch.float32)
    check_tensor("x", tensor.t(), shape=(4, 3), dtypes={torch.float32}, contiguous=False)
    check(True, "not raised")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda x: x.double(), "x is torch.float64; torch.bfloat16 or torch.float32 is needed"),
        (lambda x: x[:, :3].contiguous(), r"x has shape \[3, 3\]; \[any, 4\] is needed"),
        (lambda x: x[None], r"x has shape \[1, 3, 4\]; \[any, 4\] is needed"),
        (lambda x: x.repeat(1, 2)[:, ::2], r"x has strides \(8, 2\); a contiguous tensor"),
        (lambda x: [1.0], "x is a list; a torch.Tensor is needed"),
        (lambda x: x.to("meta"), "x is on meta; (cpu|cuda:0) is needed"),
    ],
)
def test_a_wrong_tensor_is_a_value_error(device, wrong, message):
    tensor = torch.zeros(3, 4, device=device)
    with pytest.raises(ValueError, match=message):
        check_tensor(
            "x",
            wrong(tensor),
            shape=(None, 4),
            dtypes=(torch.float32, torch.bfloat16),
            device=device,
        )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here")
@pytest.mark.skipif(INTERPRETED, reason="the kernels are interpreted in this process")
def test_a_cpu_tensor_is_refused_where_kernels_are_compiled():
    with pytest.raises(ValueError, match="x is on cpu; a CUDA tensor is needed"):
        check_tensor("x", torch.zeros(3), shape=(3,), dtypes=torch.float32)


@pytest.mark.parametrize(
    ("when", "place", "refused"),
    [
        ("auto", "cpu", True),
        ("auto", "cuda", False),
        ("always", "cuda", True),
        ("never", "cpu", False),
    ],
)
def test_indices_are_checked_where_that_waits_for_nothing(
    check_indices, monkeypatch, when, place, refused
):
    class Placed(torch.Tensor):
        is_cuda = place == "cuda"

    check_indices(when)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    for numbers, wrong in (([0, 3], None), ([0, 4], 4), ([-1, 2], -1), ([], None)):
        indices = torch.tensor(numbers, dtype=torch.int64).as_subclass(Placed)
        if refused and wrong is not None:
            with pytest.raises(ValueError, match=f"i has {wrong}; 0 to 3 is needed"):
                launch.check_indices("i", indices, 4)
        else:
            launch.check_indices("i", indices, 4)


def test_a_recording_is_not_waited_in(check_indices, monkeypatch):
    class OnDevice(torch.Tensor):
        is_cuda = True

    check_indices("always")
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    launch.check_indices("i", torch.tensor([9]).as_subclass(OnDevice), 4)


def test_a_false_condition_is_a_value_error():
    with pytest.raises(ValueError, match="budget is 3"):
        check(False, "budget is 3")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_as_good_accepts_rounding_and_refuses_more(as_good, dtype):
    torch.manual_seed(0)
    exact = torch.randn(131, dtype=torch.float64)
    rounded = exact.to(dtype)
    as_good(rounded, rounded, exact, "any")
    coarse = exact * (1 + 5 * torch.finfo(dtype).eps)
    with pytest.raises(AssertionError, match="error"):
        as_good(coarse.to(dtype), rounded, exact, "any")
    one_wrong = rounded.clone()
    one_wrong[63] += 0.1
    with pytest.raises(AssertionError, match="largest error"):
        as_good(one_wrong, rounded, exact, "any")
    unwritten = rounded.clone()
    unwritten[130] = float("nan")
    with pytest.raises(AssertionError, match="NaN"):
        as_good(unwritten, rounded, exact, "any")


def test_as_good_refuses_another_dtype_or_shape(as_good):
    exact = torch.ones(4, dtype=torch.float64)
    with pytest.raises(AssertionError, match=r"not torch\.bfloat16"):
        as_good(exact.float(), exact.bfloat16(), exact, "any")
    with pytest.raises(AssertionError, match=r"not torch.Size\(\[4\]\)"):
        as_good(torch.ones(1), exact.float(), exact, "any")
