"""Floating-point operations that NumPy lacks, each rounded once, to nearest, ties to even.

What float64 can't hold is rounded to odd on the way: an inexact value whose last bit is even goes
to its neighbour on the side of what was lost, so that the second rounding sees no false tie.

Source: Boldo and Melquiond 2008, "Emulation of a FMA and correctly rounded sums: proved algorithms
using rounding to odd"; Dekker 1971 for the error of a product, Knuth for that of a sum.
"""

from __future__ import annotations

import numpy as np

__all__ = [
    "as_float32",
    "bfloat16_fma",
    "bfloat16_sum",
    "flushed",
    "fma32",
    "fma64",
    "halves",
    "joined",
    "to_bfloat16",
]

_LEAST_NORMAL = np.float32(2.0**-126)
# The bits of a float64 that a float32 lacks, and what they are where it lies in the middle of two.
_LOWER_29, _TIE = np.int64((1 << 29) - 1), np.int64(1 << 28)


def _two_sum(a, b):
    """a + b rounded, and what it lacks of the sum; nothing where that isn't finite."""
    total = a + b
    other = total - a
    error = (a - (total - other)) + (b - other)
    return total, np.where(np.isfinite(error), error, 0.0)


def _two_product(a, b):
    """a · b rounded, and what it lacks of the product."""

    def halves_of(x):
        high = x * 134217729.0  # 2^27 + 1
        high = high - (high - x)
        return high, x - high

    product = a * b
    (a_high, a_low), (b_high, b_low) = halves_of(a), halves_of(b)
    error = ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low
    return product, error


def _to_odd(total, error, integer=np.int64):
    """The sum of two numbers, of which the second is what the first lacks, rounded to odd."""
    away = np.where(error > 0, np.inf, -np.inf).astype(total.dtype)
    even = (np.ascontiguousarray(total).view(integer) & 1) == 0
    return np.where((error != 0) & even, np.nextafter(total, away), total)


def fma32(a, b, c):
    """float32 a · b + c; the product of two float32 is exact in float64."""
    product, c = np.broadcast_arrays(a.astype(np.float64) * b.astype(np.float64), c)
    c = c.astype(np.float64)
    total = product + c
    # Elsewhere float64's rounding can't change the second one. A sum that is no normal float32
    # may be a tie at other bits.
    doubtful = (total.view(np.int64) & _LOWER_29) == _TIE
    doubtful |= np.abs(total) < _LEAST_NORMAL
    if doubtful.any():
        total[doubtful] = _to_odd(*_two_sum(product[doubtful], c[doubtful]))
    return total.astype(np.float32)


def fma64(a, b, c):
    """float64 a · b + c, unless the product is beyond 2^996 or its error below 2^-1074."""
    a, b, c = np.broadcast_arrays(a, b, c)
    high, low = _two_product(a, b)
    plain = high + c
    first, rest = _two_sum(c, low)
    top, middle = _two_sum(high, first)
    exact = top + _to_odd(*_two_sum(rest, middle))
    return np.where(np.isfinite(exact), exact, plain)


def flushed(x):
    """Subnormal float32 as zeros of their sign (`.ftz`)."""
    return np.where(np.abs(x) < _LEAST_NORMAL, np.copysign(np.float32(0), x), x)


def as_float32(bits):
    """float32 of bfloat16, which is given as uint16: exact."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def to_bfloat16(x):
    """bfloat16 (as uint16) of float32; every NaN is 0x7FFF."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    one = np.uint32(1)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & one)) >> np.uint32(16)
    return np.where(np.isnan(x), np.uint16(0x7FFF), rounded.astype(np.uint16))


def _sum_to_bfloat16(a, b):
    """bfloat16 of a float64 sum, rounded once."""
    total = _to_odd(*_two_sum(a, b))
    single = total.astype(np.float32)
    lost = total - single.astype(np.float64)
    return to_bfloat16(_to_odd(single, np.where(np.isnan(lost), 0.0, lost), np.int32))


def _wide(bits):
    return as_float32(bits).astype(np.float64)


def bfloat16_sum(a, b):
    """bfloat16 a + b, as uint16."""
    return _sum_to_bfloat16(_wide(a), _wide(b))


def bfloat16_fma(a, b, c):
    """bfloat16 a · b + c, as uint16; the product is exact in float64."""
    return _sum_to_bfloat16(_wide(a) * _wide(b), _wide(c))


def halves(x):
    """The lower and the upper half of each uint32 or uint64, as unsigned of half the size."""
    half, bits = (np.uint16, 16) if x.dtype == np.uint32 else (np.uint32, 32)
    return x.astype(half), (x >> x.dtype.type(bits)).astype(half)


def joined(lower, upper):
    """`halves` undone."""
    whole, bits = (np.uint32, 16) if lower.dtype == np.uint16 else (np.uint64, 32)
    return lower.astype(whole) | (upper.astype(whole) << whole(bits))
