"""The largest logit of each row, exactly."""

from __future__ import annotations

import pytest
import torch

from tempo_kernels.greedy import BLOCK_V, greedy, greedy_ref

DTYPES = [torch.float32, torch.bfloat16]


def logits_of(rows: int, vocabulary: int, dtype: torch.dtype) -> torch.Tensor:
    generator = torch.Generator().manual_seed(rows + vocabulary)
    return (torch.randn(rows, vocabulary, generator=generator) * 4).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("vocabulary", [1, 63, 131, BLOCK_V, BLOCK_V + 1, 151936])
def test_the_largest(device, vocabulary, dtype):
    logits = logits_of(3, vocabulary, dtype)
    out = torch.full((3,), -1, dtype=torch.int64, device=device)
    assert greedy(logits.to(device), out=out) is out
    assert torch.equal(out.cpu(), greedy_ref(logits))
    assert torch.equal(logits.gather(1, out.cpu()[:, None])[:, 0], logits.amax(1))


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_lowest_of_equals(device, dtype):
    logits = torch.full((5, 3 * BLOCK_V), -2.0, dtype=dtype)
    logits[0, [BLOCK_V - 1, BLOCK_V, 2 * BLOCK_V + 5]] = 3.0
    logits[1, 7:] = -1.0
    logits[2, 9], logits[2, 10] = -0.0, 0.0
    logits[3, 2 * BLOCK_V :] = float("inf")
    logits[4] = float("-inf")
    expected = [BLOCK_V - 1, 7, 9, 2 * BLOCK_V, 0]
    assert greedy(logits.to(device)).tolist() == expected
    assert greedy_ref(logits).tolist() == expected


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sign", [1, -1])
def test_a_nan_is_the_largest_as_in_torch(device, dtype, sign):
    logits = logits_of(1, 131, dtype)
    logits[0, 50] = torch.copysign(torch.tensor(float("nan")), torch.tensor(float(sign)))
    assert greedy(logits.to(device)).tolist() == logits.argmax(-1).tolist() == [50]


def test_no_rows_are_no_tokens(device):
    assert greedy(torch.empty(0, 131, device=device)).shape == (0,)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda x: x.half(), "logits is torch.float16"),
        (lambda x: x[0], r"logits has shape \[131\]; \[any, any\] is needed"),
        (lambda x: x.t(), "a contiguous tensor is needed"),
        (lambda x: x[:, :0], r"logits has shape \[2, 0\]"),
    ],
)
def test_bad_input_is_a_value_error(device, wrong, message):
    with pytest.raises(ValueError, match=message):
        greedy(wrong(logits_of(2, 131, torch.float32).to(device)))
