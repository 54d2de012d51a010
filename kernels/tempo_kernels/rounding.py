"""Rounding inside a kernel, the same on a GPU and in Triton's interpreter.

`rounded(x, dtype)` is float32 x rounded to the nearest value of dtype (ties to even) and raised
back to float32. The interpreter's own conversion to bfloat16 truncates; what `rounded` returns
fits dtype already, so storing it afterwards changes nothing in either mode.
`quotient(a, b, dtype)` is their float32 quotient for a result of dtype: the nearest for float32,
and for bfloat16 a GPU's approximate one, which is two units of float32 off at most.
"""

from __future__ import annotations

from tempo_kernels import launch
from tempo_kernels.language import tl, triton

_INTERPRETED = tl.constexpr(launch.INTERPRETED)


@triton.jit
def rounded(x, dtype: tl.constexpr):
    """float32 x through dtype: what PyTorch keeps of it in a tensor of that dtype."""
    if _INTERPRETED and dtype == tl.bfloat16:
        bits = x.to(tl.int32, bitcast=True)
        bits += 0x7FFF + ((bits >> 16) & 1)
        nearest = (bits & -65536).to(tl.float32, bitcast=True)
        return tl.where(x == x, nearest, x)
    return x.to(dtype).to(tl.float32)


@triton.jit
def quotient(a, b, dtype: tl.constexpr):
    """a / b of float32: the nearest one if dtype is float32 too."""
    if dtype == tl.float32:
        return tl.div_rn(a, b)
    else:
        return a / b
