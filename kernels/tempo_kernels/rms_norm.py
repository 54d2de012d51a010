"""RMSNorm over the last dimension, alone or after a residual add.

    h      = x, or round(x + residual)
    normed = round(weight · round(h / sqrt(mean(h²) + eps)))

x, residual: [..., D]; weight: [D]; all bfloat16 or all float32. Sums and quotients are float32;
`round` is to the dtype, where PyTorch's modules round: after the sum, after the normalisation and
after the weight. One pass: each row is read once, held in registers and written once.

Source: Zhang & Sennrich 2019 (arXiv 1910.07467), with the rounding points of Qwen3's RMSNorm.
"""

from __future__ import annotations

import torch

from tempo_kernels.language import tl, triton
from tempo_kernels.launch import Variant, check, check_tensor, next_power_of_2
from tempo_kernels.rounding import rounded

DTYPES = (torch.bfloat16, torch.float32)
# A row lives in the registers of one program: beyond this it would spill.
MAX_WIDTH = 16384


def _config(width: int) -> tuple[int, int, int]:
    """Rows and columns of a tile, and warps: 16 values a thread, two 16-byte loads in bfloat16."""
    block = next_power_of_2(width)
    rows = max(1, 2048 // block)
    return rows, block, max(4, min(16, rows * block // 512))


@triton.jit(do_not_specialize=["rows"])
def _rms_norm_kernel(
    x,
    residual,
    weight,
    total,
    normed,
    rows,
    eps,
    D: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    dtype: tl.constexpr = x.dtype.element_ty
    i_t = tl.program_id(0).to(tl.int64) * BLOCK_T + tl.arange(0, BLOCK_T)
    o_d = tl.arange(0, BLOCK_D)
    m_d = o_d < D
    m = (i_t < rows)[:, None] & m_d[None, :]
    o = i_t[:, None] * D + o_d[None, :]

    # [BLOCK_T, BLOCK_D]
    b_h = tl.load(x + o, mask=m, other=0.0).to(tl.float32)
    # [BLOCK_D]
    b_weight = tl.load(weight + o_d, mask=m_d, other=0.0).to(tl.float32)
    if residual is not None:
        # [BLOCK_T, BLOCK_D]
        b_residual = tl.load(residual + o, mask=m, other=0.0).to(tl.float32)
        b_h = rounded(b_h + b_residual, dtype)
        tl.store(total + o, b_h, mask=m)
    scale = tl.rsqrt(tl.sum(b_h * b_h, axis=1) * (1.0 / D) + eps)
    b_unit = rounded(b_h * scale[:, None], dtype)
    tl.store(normed + o, rounded(b_weight[None, :] * b_unit, dtype), mask=m)


def rms_norm(
    x: torch.Tensor, weight: torch.Tensor, eps: float, *, out: torch.Tensor | None = None
) -> torch.Tensor:
    """RMSNorm of x [..., D]: [..., D], into `out` (which may be x) if given.

    Raises ValueError for shapes, strides, dtypes or devices that don't fit, and for D over 16384.
    """
    _check(x, weight)
    out = _output("out", out, x)
    _launch(x, None, weight, None, out, eps)
    return out


def add_rms_norm(
    x: torch.Tensor,
    residual: torch.Tensor,
    weight: torch.Tensor,
    eps: float,
    *,
    out: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """x + residual, and its RMSNorm: both [..., D], into the two of `out` if given.

    The sum may be written over x or residual. Raises ValueError as `rms_norm` does.
    """
    _check(x, weight)
    check_tensor("residual", residual, shape=tuple(x.shape), dtypes=x.dtype, device=x.device)
    total, normed = out if out is not None else (None, None)
    total, normed = _output("out[0]", total, x), _output("out[1]", normed, x)
    check(total.data_ptr() != normed.data_ptr() or not x.numel(), "out holds one tensor twice")
    _launch(x, residual, weight, total, normed, eps)
    return total, normed


def _check(x: torch.Tensor, weight: torch.Tensor) -> None:
    check(isinstance(x, torch.Tensor) and x.ndim > 0, "x has no last dimension to normalise over")
    width = x.shape[-1]
    check_tensor("x", x, shape=(None,) * x.ndim, dtypes=DTYPES)
    check(0 < width <= MAX_WIDTH, f"x has rows of {width}; 1 to {MAX_WIDTH} is needed")
    check_tensor("weight", weight, shape=(width,), dtypes=x.dtype, device=x.device)


def _output(name: str, out: torch.Tensor | None, like: torch.Tensor) -> torch.Tensor:
    if out is None:
        return torch.empty_like(like)
    check_tensor(name, out, shape=tuple(like.shape), dtypes=like.dtype, device=like.device)
    return out


def _launch(
    x: torch.Tensor,
    residual: torch.Tensor | None,
    weight: torch.Tensor,
    total: torch.Tensor | None,
    normed: torch.Tensor,
    eps: float,
) -> None:
    """Norm x, or x + residual, into `normed`; the sum goes to `total`."""
    width = x.shape[-1]
    rows = x.numel() // width
    if rows == 0:
        return
    block_t, block_d, warps = _config(width)
    _rms_norm_kernel[(triton.cdiv(rows, block_t),)](
        x,
        residual,
        weight,
        total,
        normed,
        rows,
        eps,
        D=width,
        BLOCK_T=block_t,
        BLOCK_D=block_d,
        num_warps=warps,
    )


def rms_norm_ref(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """`rms_norm` in plain PyTorch."""
    wide = x.float()
    scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return weight * (wide * scale).to(x.dtype)


def add_rms_norm_ref(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """`add_rms_norm` in plain PyTorch."""
    total = x + residual
    return total, rms_norm_ref(total, weight, eps)


def variants() -> list[Variant]:
    """The widths of compressor and language model, with and without the residual."""
    found = []
    for dtype in ("bf16", "fp32"):
        for width in (2048, 2560):
            block_t, block_d, warps = _config(width)
            for add in (False, True):
                tensors = ("x", "weight", "normed", *(("residual", "total") if add else ()))
                constants = {"D": width, "BLOCK_T": block_t, "BLOCK_D": block_d}
                if not add:
                    constants |= {"residual": None, "total": None}
                signature = dict.fromkeys(tensors, f"*{dtype}") | {"rows": "i32", "eps": "fp32"}
                name = f"{dtype}, D {width}{', add' if add else ''}"
                found.append(
                    Variant(name, _rms_norm_kernel, signature, constants, tensors, num_warps=warps)
                )
    return found
