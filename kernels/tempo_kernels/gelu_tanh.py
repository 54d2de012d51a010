"""GELU in its tanh form, elementwise.

    out = round(x · (1 + tanh(u)) / 2),  u = sqrt(2/π) · (x + 0.044715 x³)

x, out: any one shape, contiguous, bfloat16 or float32. Computed in float32 as x / (1 + exp(−2u)),
which is the same value without tanh's cancellation at negative x; rounded to the dtype once, as
PyTorch does.

Source: Hendrycks & Gimpel 2016 (arXiv 1606.08415), as in Qwen3-VL's vision encoder.
"""

from __future__ import annotations

import torch

from tempo_kernels.language import tl, triton
from tempo_kernels.launch import Variant, check, check_tensor
from tempo_kernels.rounding import quotient, rounded

DTYPES = (torch.bfloat16, torch.float32)
# 32 values a thread: four 16-byte loads in flight in bfloat16, eight in float32.
BLOCK = 4096
WARPS = 4


@triton.jit
def _gelu_tanh_kernel(x, out, size, BLOCK: tl.constexpr):
    dtype: tl.constexpr = x.dtype.element_ty
    o = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    m = o < size
    # [BLOCK]
    b_x = tl.load(x + o, mask=m, other=0.0).to(tl.float32)
    # 2 sqrt(2/π) x (1 + 0.044715 x²)
    b_twice_u = b_x * (1.5957691216057308 + 0.07135481282615446 * b_x * b_x)
    tl.store(out + o, rounded(quotient(b_x, 1.0 + tl.exp(-b_twice_u), dtype), dtype), mask=m)


def gelu_tanh(x: torch.Tensor, *, out: torch.Tensor | None = None) -> torch.Tensor:
    """GELU (tanh form) of every value of x, into `out` (which may be x) if given.

    Raises ValueError for shapes, strides, dtypes or devices that don't fit.
    """
    check(isinstance(x, torch.Tensor), f"x is a {type(x).__name__}; a torch.Tensor is needed")
    check_tensor("x", x, shape=(None,) * x.ndim, dtypes=DTYPES)
    if out is None:
        out = torch.empty_like(x)
    else:
        check_tensor("out", out, shape=tuple(x.shape), dtypes=x.dtype, device=x.device)
    size = x.numel()
    if size:
        grid = (triton.cdiv(size, BLOCK),)
        _gelu_tanh_kernel[grid](x, out, size, BLOCK=BLOCK, num_warps=WARPS)
    return out


def gelu_tanh_ref(x: torch.Tensor) -> torch.Tensor:
    """`gelu_tanh` in plain PyTorch."""
    return torch.nn.functional.gelu(x, approximate="tanh")


def variants() -> list[Variant]:
    """The vision encoder's MLP, whose values are a multiple of 4096."""
    return [
        Variant(
            dtype,
            _gelu_tanh_kernel,
            {"x": f"*{dtype}", "out": f"*{dtype}", "size": "i32"},
            {"BLOCK": BLOCK},
            ("x", "out", "size"),
            num_warps=WARPS,
        )
        for dtype in ("bf16", "fp32")
    ]
