"""How far a kernel may be from its reference: one table, each row with its reason."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Limit:
    """A number that a comparison of another kind than `assert_as_good` may reach."""

    value: float
    reason: str


@dataclass(frozen=True)
class Tolerance:
    """Limits on a kernel's error against float64, in multiples of the reference's own error.

    factor: error allowed per error of the PyTorch reference in the same dtype.
    floor: added to that, in units of the dtype's epsilon times the exact values' size: it only
        matters where the reference is exact by luck (few elements, round numbers).
    """

    factor: float
    floor: float
    reason: str


DEFAULT = Tolerance(2.0, 0.25, "twice PyTorch's error: same formula, other order of summation")

# Rows by operation name, for those that need other limits than DEFAULT, each with its reason.
TOLERANCES: dict[str, Tolerance] = {
    "relevance": Tolerance(
        2.0, 2.0, "the sigmoid's exponential and quotient are the GPU's approximate ones: 2 units"
    ),
}

# Limits of tests that compare otherwise, by operation and by what is compared.
LIMITS: dict[str, Limit] = {
    "rounded apart": Limit(
        0.02,
        "share of bfloat16 values: another order of summation moves few roundings, one left out or"
        " one too many would move many",
    ),
    "assemble: golden prompts": Limit(
        2e-4, "share of the largest value: float32 products, summed in another order than theirs"
    ),
    "engine: embeddings": Limit(
        2e-4, "share of the largest value: float32 through all layers, summed in another order"
    ),
    "engine: relevance": Limit(1e-5, "absolute, of a probability: the same, behind a sigmoid"),
    "engine: pixels": Limit(
        1.01 / 127.5, "the last resizing is in float32: a value beside a half may round otherwise"
    ),
    "engine: other pixels": Limit(5e-3, "share of the pixels that are beside a half, in a clip"),
    "gelu_tanh: relative": Limit(2.0, "epsilons of each value, as everywhere: twice one rounding"),
    "gelu_tanh: tiny values": Limit(
        1e-6, "absolute: far left of zero exp(-2u) is large, and its relative error grows with u"
    ),
    "gelu_tanh: cancels below": Limit(
        -2.0, "x under which PyTorch's own 1 + tanh cancels, so that the two round apart"
    ),
    "grid_table: bilinear": Limit(
        1e-5, "absolute: PyTorch has the float64 table's places in float64, the engine in float32"
    ),
    "preprocess: golden pixels": Limit(
        1e-6, "absolute: one of 256 levels, which are 8e-3 apart, in float32"
    ),
    "preprocess: one level": Limit(
        1.01 / 127.5, "a float sum that ties may round the other way: one level of 255"
    ),
    "preprocess: bfloat16": Limit(
        0.004, "on top of a level: half a bfloat16 step under 1, for each of the two"
    ),
    "preprocess: levels apart": Limit(1e-3, "share of the pixels: ties are rare in noise"),
    "relevance: rounds alike": Limit(
        1e-6, "absolute, the median of probabilities: float32 products, summed in another order"
    ),
    "resize: levels": Limit(1, "a float sum that ties may round the other way"),
    "resize: from a half": Limit(
        1e-3, "levels: float32 sums of a few products of bytes and weights about 1, in two orders"
    ),
    "resize: levels apart": Limit(
        5e-3, "share of the pixels: true halves are of black and white alone, noise has hardly any"
    ),
    "rope_tables: large angles": Limit(
        3e-7, "absolute: cosines and sines up to 1, within two or three float32 units in the last"
    ),
    "sample: border": Limit(
        3e-6,
        "a uniform number this near the border between two tokens may fall to either: float32 sums"
        " of up to 1,024 weights, each within 1e-6",
    ),
    "sample: spread": Limit(5.0, "standard deviations of a count, over all tokens of a test"),
    "sample: count": Limit(1.0, "tokens on top of the spread: a count is whole"),
    "swiglu: large gates, relative": Limit(1e-6, "float32's exponential: a few epsilons"),
    "swiglu: large gates, absolute": Limit(
        1e-30, "where the exponential is denormal, a GPU's may be 0"
    ),
}


def limit(name: str) -> float:
    """The value of a row of LIMITS."""
    return LIMITS[name].value


def assert_rounds_alike(actual: torch.Tensor, reference: torch.Tensor) -> None:
    """Fails where many of two tensors' values differ, if they are bfloat16."""
    if actual.dtype == torch.bfloat16:
        assert (actual != reference).float().mean() < limit("rounded apart")


def assert_as_good(
    actual: torch.Tensor,
    reference: torch.Tensor,
    exact_float64: torch.Tensor,
    op: str,
) -> None:
    """Fails unless `actual` errs, at most and in RMS, no more than its tolerance allows.

    actual, reference: the kernel's and the PyTorch reference's results, same shape and dtype.
    exact_float64: the same formula in float64 without intermediate rounding.
    """
    assert actual.dtype == reference.dtype, f"{op}: {actual.dtype}, not {reference.dtype}"
    assert actual.shape == reference.shape, f"{op}: {actual.shape}, not {reference.shape}"
    assert exact_float64.dtype == torch.float64, f"{op}: the exact values are not float64"
    assert exact_float64.shape == reference.shape, f"{op}: the exact values have another shape"
    if actual.numel() == 0:
        return
    exact = exact_float64.cpu()
    assert torch.isfinite(actual).all(), f"{op}: NaN or infinity in the result"
    tolerance = TOLERANCES.get(op, DEFAULT)
    unit = tolerance.floor * torch.finfo(actual.dtype).eps
    error = (actual.double().cpu() - exact).abs()
    allowed = (reference.double().cpu() - exact).abs()
    for measure, size in (("largest", torch.max), ("RMS", _rms)):
        limit = tolerance.factor * size(allowed) + unit * size(exact.abs())
        assert size(error) <= limit, (
            f"{op}: {measure} error {size(error):.3e} is over {limit:.3e},"
            f" {tolerance.factor} times PyTorch's {size(allowed):.3e} and a floor"
            f" ({tolerance.reason})"
        )


def _rms(values: torch.Tensor) -> torch.Tensor:
    return values.square().mean().sqrt()
