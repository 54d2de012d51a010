"""oneDNN's float32 matrix product, where torch would take a slower one on a CPU.

torch gives float32 products to MKL, which on AMD's processors leaves half of the width of AVX-512
unused; its other dtypes go to oneDNN anyway. The op is the one that torch's compiler calls. It sums
in one chain where MKL sums blocks: over 1536 inputs, its largest error is three times as large.
"""

from __future__ import annotations

import torch

# Multiplications below which its setting up costs more than it saves (measured on a Zen 5).
FEWEST = 1 << 21


def _find() -> torch._ops.OpOverloadPacket | None:
    wide = torch.backends.cpu.get_cpu_capability() == "AVX512"
    if not (wide and torch.backends.mkldnn.is_available()):
        return None
    return getattr(torch.ops.mkldnn, "_linear_pointwise", None)


_product = _find()
AVAILABLE = _product is not None


def takes(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> bool:
    """Whether `linear` can compute x [..., in] times weight [out, in], and is worth it."""
    if not AVAILABLE or x.device.type != "cpu" or x.numel() * weight.shape[0] < FEWEST:
        return False
    if not x.dtype == weight.dtype == torch.float32 or not torch.backends.mkldnn.enabled:
        return False
    # What it computes is unknown to autograd and to autocast.
    tensors = (x, weight) if bias is None else (x, weight, bias)
    learning = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    return not (learning or torch.is_autocast_enabled("cpu"))


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """x Wᵀ + b, float32 [..., out], of what it takes."""
    return _product(x, weight, bias, "none", [], "")
