"""How far a kernel may be from its reference: one table, each row with its reason."""

from __future__ import annotations

from dataclasses import dataclass

import torch


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
