"""SwiGLU on fused gate and up projections.

    out = round(round(silu(gate)) · up),  silu(g) = g / (1 + exp(−g))

gate_up: [..., 2F], a row's F gates before its F ups; out: [..., F]; bfloat16 or float32. silu is
float32 and rounded to the dtype before the product, as PyTorch's two operations do.

Source: Shazeer 2020 (arXiv 2002.05202), as in Qwen3's MLP.
"""

from __future__ import annotations

import torch

from tempo_kernels.language import tl, triton
from tempo_kernels.launch import Variant, check, check_tensor
from tempo_kernels.rounding import quotient, rounded

DTYPES = (torch.bfloat16, torch.float32)
# 16 values a thread of gate and of up: four 16-byte loads in flight in bfloat16.
BLOCK_F = 2048
WARPS = 4


@triton.jit
def _swiglu_kernel(gate_up, out, F: tl.constexpr, BLOCK_F: tl.constexpr):
    dtype: tl.constexpr = gate_up.dtype.element_ty
    # Neighbouring programs work on neighbouring blocks of one row.
    blocks: tl.constexpr = (F + BLOCK_F - 1) // BLOCK_F
    i_t = (tl.program_id(0) // blocks).to(tl.int64)
    o_f = tl.program_id(0) % blocks * BLOCK_F + tl.arange(0, BLOCK_F)
    m = o_f < F
    p_gate = gate_up + i_t * 2 * F + o_f
    # [BLOCK_F] twice
    b_gate = tl.load(p_gate, mask=m, other=0.0).to(tl.float32)
    b_up = tl.load(p_gate + F, mask=m, other=0.0).to(tl.float32)
    b_silu = rounded(quotient(b_gate, 1.0 + tl.exp(-b_gate), dtype), dtype)
    tl.store(out + i_t * F + o_f, rounded(b_silu * b_up, dtype), mask=m)


def swiglu(gate_up: torch.Tensor, *, out: torch.Tensor | None = None) -> torch.Tensor:
    """silu(gate) · up of gate_up [..., 2F]: [..., F], into `out` if given.

    Raises ValueError for shapes, strides, dtypes or devices that don't fit.
    """
    check(
        isinstance(gate_up, torch.Tensor) and gate_up.ndim > 0 and gate_up.shape[-1] % 2 == 0,
        "gate_up needs a last dimension of even size: gates, then as many ups",
    )
    check_tensor("gate_up", gate_up, shape=(None,) * gate_up.ndim, dtypes=DTYPES)
    *batch, width = gate_up.shape
    shape = (*batch, width // 2)
    if out is None:
        out = gate_up.new_empty(shape)
    else:
        check_tensor("out", out, shape=shape, dtypes=gate_up.dtype, device=gate_up.device)
    if out.numel():
        rows, features = gate_up.numel() // width, width // 2
        grid = (rows * triton.cdiv(features, BLOCK_F),)
        _swiglu_kernel[grid](gate_up, out, F=features, BLOCK_F=BLOCK_F, num_warps=WARPS)
    return out


def swiglu_ref(gate_up: torch.Tensor) -> torch.Tensor:
    """`swiglu` in plain PyTorch."""
    gate, up = gate_up.chunk(2, dim=-1)
    return torch.nn.functional.silu(gate) * up


def variants() -> list[Variant]:
    """The MLP sizes of compressor and language model."""
    tensors = ("gate_up", "out")
    return [
        Variant(
            f"{dtype}, F {features}",
            _swiglu_kernel,
            dict.fromkeys(tensors, f"*{dtype}"),
            {"F": features, "BLOCK_F": BLOCK_F},
            tensors,
            num_warps=WARPS,
        )
        for dtype in ("bf16", "fp32")
        for features in (6144, 9728)
    ]
