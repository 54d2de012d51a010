"""oneDNN's float32 matrix product, where torch would take a slower one on a CPU.

torch gives float32 products to MKL, which on AMD's processors leaves half of the width of AVX-512
unused; its other dtypes go to oneDNN anyway. The op is the one that torch's compiler calls. It sums
in one chain where MKL sums blocks: over 1536 inputs, its largest error is three times as large.
"""

from __future__ import annotations

import platform
from collections.abc import Container
from pathlib import Path

import torch

# Multiplications below which its setting up costs more than it saves (measured on a Zen 5).
FEWEST = 1 << 21


def _find() -> torch._ops.OpOverloadPacket | None:
    wide = torch.backends.cpu.get_cpu_capability() == "AVX512"
    if not (wide and torch.backends.mkldnn.is_available()):
        return None
    return getattr(torch.ops.mkldnn, "_linear_pointwise", None)


def _by_amd() -> bool:
    cpuinfo = Path("/proc/cpuinfo")
    told = cpuinfo.read_text() if cpuinfo.exists() else platform.processor()
    return "AuthenticAMD" in told


_product = _find()
AVAILABLE = _product is not None
# Where MKL is the slower one for certain.
AMD = _by_amd()


def usable(*tensors: torch.Tensor, dtypes: Container[torch.dtype] = (torch.float32,)) -> bool:
    """Whether `linear` can compute with these tensors, all on a CPU and of one of the dtypes.

    Others than float32 have to be made so.
    """
    if not AVAILABLE or not torch.backends.mkldnn.enabled:
        return False
    if any(x.device.type != "cpu" or x.dtype not in dtypes for x in tensors):
        return False
    # What it computes is unknown to autograd and to autocast.
    learning = torch.is_grad_enabled() and any(x.requires_grad for x in tensors)
    return not (learning or torch.is_autocast_enabled("cpu"))


def takes(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> bool:
    """Whether `linear` can compute x [..., in] times weight [out, in], and is worth it."""
    if x.numel() * weight.shape[0] < FEWEST:
        return False
    return usable(x, weight) if bias is None else usable(x, weight, bias)


def linear(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    *,
    gelu_tanh: bool = False,
) -> torch.Tensor:
    """x Wᵀ + b, float32 [..., out], of what is `usable`; its GELU (tanh form) if asked for.

    weight: [out, in], contiguous or contiguous when transposed: anything else takes a thousand
    times as long.
    """
    if gelu_tanh:
        return _product(x, weight, bias, "gelu", [], "tanh")
    return _product(x, weight, bias, "none", [], "")
