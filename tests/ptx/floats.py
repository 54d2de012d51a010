"""Instructions on float32, float64 and bfloat16, alone and packed in pairs.

A NaN is NumPy's, not the ISA's canonical one. Denormal numbers are kept unless `.ftz` says no.

Source: NVIDIA's "PTX ISA", sections "Floating Point Instructions", "Half Precision Floating Point
Instructions", "Mixed Precision Floating Point Instructions", "Comparison and Selection
Instructions".
"""

from __future__ import annotations

from functools import reduce

import numpy as np

from .approximations import Errors
from .integers import COMPARISONS
from .rounding import (
    as_float32,
    bfloat16_fma,
    bfloat16_sum,
    flushed,
    fma32,
    fma64,
    halves,
    joined,
)
from .table import define

_BF16_SIGN = np.uint16(0x8000)


def _ftz(function):
    """With denormal inputs and results flushed to zero."""
    return lambda *operands: flushed(function(*map(flushed, operands)))


def _packed(function):
    """A function of halves, for both of each register."""

    def both(*operands):
        lower, upper = zip(*map(halves, operands), strict=True)
        return joined(function(*lower), function(*upper))

    return both


def _of_floats(function):
    """A function of float32, for their bits."""

    def run(*bits):
        return function(*(x.view(np.float32) for x in bits)).view(np.uint32)

    return run


def _bfloat16_difference(a, b):
    return bfloat16_sum(a, b ^ _BF16_SIGN)


def _bfloat16_product(a, b):
    # −0 changes no sum: not even that of two zeros.
    return bfloat16_fma(a, b, np.broadcast_to(_BF16_SIGN, np.shape(a)))


def _extreme(choose, of_equals):
    """The least or the greatest of two or three; NaN only of NaNs, and −0 is smaller than 0."""

    def of_two(a, b):
        found = choose(a, b)
        integer = np.uint32 if found.dtype == np.float32 else np.uint64
        equals = of_equals(a.view(integer), b.view(integer)).view(found.dtype)
        return np.where(a == b, equals, found)

    return lambda *operands: reduce(of_two, operands)


_smallest = _extreme(np.fmin, np.bitwise_or)
_largest = _extreme(np.fmax, np.bitwise_and)


def _either_nan(a, b):
    return np.isnan(a) | np.isnan(b)


def _or_unordered(compare):
    return lambda a, b: compare(a, b) | _either_nan(a, b)


def _compared(compare, ordered: bool):
    """NumPy's comparisons with NaN are false, except that it is unequal."""
    return lambda a, b: compare(a, b) & ~_either_nan(a, b) if ordered else compare(a, b)


_CONDITIONS = {name: _compared(compare, name == "ne") for name, compare in COMPARISONS.items()}
_CONDITIONS |= {f"{name}u": _or_unordered(compare) for name, compare in COMPARISONS.items()}
_CONDITIONS |= {"num": lambda a, b: ~_either_nan(a, b), "nan": _either_nan}


def _of_bfloat16(compare):
    return lambda a, b: compare(as_float32(a), as_float32(b))


def _of_pairs(compare):
    """Two predicates of two pairs."""

    def both(a, b):
        (a_0, a_1), (b_0, b_1) = halves(a), halves(b)
        return compare(as_float32(a_0), as_float32(b_0)), compare(as_float32(a_1), as_float32(b_1))

    return both


_FLOATS = {"add": np.add, "sub": np.subtract, "mul": np.multiply}
for _name, _function in _FLOATS.items():
    for _round in ("", ".rn"):
        define(f"{_name}{_round}.f32", "f32", "f32 f32", _function)
        define(f"{_name}{_round}.ftz.f32", "f32", "f32 f32", _ftz(_function))
        define(f"{_name}{_round}.f64", "f64", "f64 f64", _function)
        define(f"{_name}{_round}.f32x2", "b64", "b64 b64", _packed(_of_floats(_function)))
_BFLOAT16 = {"add": bfloat16_sum, "sub": _bfloat16_difference, "mul": _bfloat16_product}
for _name, _function in _BFLOAT16.items():
    for _round in ("", ".rn"):
        define(f"{_name}{_round}.bf16", "b16", "b16 b16", _function)
        define(f"{_name}{_round}.bf16x2", "b32", "b32 b32", _packed(_function))
define("fma.rn.f32", "f32", "f32 f32 f32", fma32)
define("fma.rn.ftz.f32", "f32", "f32 f32 f32", _ftz(fma32))
define("fma.rn.f32x2", "b64", "b64 b64 b64", _packed(_of_floats(fma32)))
define("fma.rn.f64", "f64", "f64 f64 f64", fma64)
define("fma.rn.bf16", "b16", "b16 b16 b16", bfloat16_fma)
define("fma.rn.bf16x2", "b32", "b32 b32 b32", _packed(bfloat16_fma))
# Mixed: the bfloat16 operands are widened, the float32 result is rounded once.
define("add.rn.f32.bf16", "f32", "b16 f32", lambda a, c: as_float32(a) + c)
define("sub.rn.f32.bf16", "f32", "b16 f32", lambda a, c: as_float32(a) - c)
define("fma.rn.f32.bf16", "f32", "b16 b16 f32", lambda a, b, c: fma32(*map(as_float32, (a, b)), c))

for _type in ("f32", "f64"):
    define(f"div.rn.{_type}", _type, f"{_type} {_type}", np.divide)
    define(f"neg.{_type}", _type, _type, np.negative)
    define(f"abs.{_type}", _type, _type, np.abs)
    _operands = "f32 f32 f32?" if _type == "f32" else "f64 f64"
    define(f"min.{_type}", _type, _operands, _smallest)
    define(f"max.{_type}", _type, _operands, _largest)
    # The sign is the first operand's.
    define(f"copysign.{_type}", _type, f"{_type} {_type}", lambda a, b: np.copysign(b, a))
    define(f"sqrt.rn.{_type}", _type, _type, np.sqrt)
define("abs.ftz.f32", "f32", "f32", _ftz(np.abs))
define("neg.ftz.f32", "f32", "f32", _ftz(np.negative))

define("ex2.approx.f32", "f32", "errors f32", Errors.exponential)
define("lg2.approx.f32", "f32", "errors f32", Errors.logarithm)
define("div.full.f32", "f32", "errors f32 f32", Errors.quotient)
define("rcp.approx.ftz.f32", "f32", "errors f32", Errors.reciprocal)
define("rsqrt.approx.ftz.f32", "f32", "errors f32", Errors.inverse_root)

for _name, _compare in _CONDITIONS.items():
    for _type in ("f32", "f64"):
        define(f"setp.{_name}.{_type}", "pred", f"{_type} {_type}", _compare)
    define(f"setp.{_name}.bf16", "pred", "b16 b16", _of_bfloat16(_compare))
    define(f"setp.{_name}.bf16x2", "pred pred", "b32 b32", _of_pairs(_compare))
