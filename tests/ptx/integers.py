"""Instructions on integers and bits.

Source: NVIDIA's "PTX ISA", sections "Integer Arithmetic Instructions", "Extended-Precision Integer
Arithmetic Instructions", "Logic and Shift Instructions", "Comparison and Selection Instructions".
"""

from __future__ import annotations

import numpy as np

from .table import DTYPES, define

SIZES = ("16", "32", "64")
_U32, _U64 = np.uint32, np.uint64


def _wide(size: str) -> str:
    return str(int(size) * 2)


def _multiply_wide(dtype):
    return lambda a, b: a.astype(dtype) * b.astype(dtype)


def _multiply_high(kind: str):
    """The upper half of the product of 32 bits."""
    wide, narrow = DTYPES[kind + "64"].type, DTYPES[kind + "32"].type
    return lambda a, b: ((a.astype(wide) * b.astype(wide)) >> wide(32)).astype(narrow)


def _multiply_add_wide(dtype):
    return lambda a, b, c: a.astype(dtype) * b.astype(dtype) + c


def _divided(a, b):
    """Quotient towards zero, and the remainder; by zero all ones, and what was divided."""
    a, b = np.broadcast_arrays(a, b)
    by_zero, one = b == 0, a.dtype.type(1)
    divisor = np.where(by_zero, one, b)
    quotient = a // divisor
    rest = a - quotient * divisor
    # NumPy rounds down.
    quotient = quotient + ((rest != 0) & ((rest < 0) != (a < 0))).astype(a.dtype)
    rest = a - quotient * divisor
    ones = np.array(-1).astype(a.dtype)
    return np.where(by_zero, ones, quotient), np.where(by_zero, a, rest)


def _add_with_carry(a, b, c):
    """mad.lo.cc.u32: the lower half of a · b + c, and the carry."""
    low = a * b
    total = low + c
    return total, (total < low).astype(_U32)


def _high_with_carry(a, b, c, carry):
    """madc.hi.u32: the upper half of a · b, plus c and the carry."""
    return ((a.astype(_U64) * b.astype(_U64)) >> _U64(32)).astype(_U32) + c + carry


def _shifted_left(a, count):
    bits = a.dtype.itemsize * 8
    shifted = a << np.minimum(count, _U32(bits - 1)).astype(a.dtype)
    return np.where(count >= bits, a.dtype.type(0), shifted)


def _shifted_right(a, count):
    """By as many bits as there are or more: zeros, or the sign."""
    bits = a.dtype.itemsize * 8
    shifted = a >> np.minimum(count, _U32(bits - 1)).astype(a.dtype)
    return shifted if a.dtype.kind == "i" else np.where(count >= bits, a.dtype.type(0), shifted)


def _funnel(a, b, count):
    """shf.l.wrap.b32: the upper half of b:a, shifted left by count mod 32."""
    both = b.astype(_U64) << _U64(32) | a
    return ((both << (count & _U32(31)).astype(_U64)) >> _U64(32)).astype(_U32)


def _field(a, position, length):
    """bfe: bits from `position` on; a signed field repeats its sign, and a's where a ends."""
    bits = a.dtype.itemsize * 8
    a, position, length = np.broadcast_arrays(a, position & _U32(255), length & _U32(255))
    end = np.minimum(position + length, _U32(bits))
    up = (bits - end).astype(a.dtype)
    # The field lies at the upper end first; then it comes down, its sign behind it.
    down = np.minimum(bits - end + position, _U32(bits - 1)).astype(a.dtype)
    found = (a << np.minimum(up, a.dtype.type(bits - 1))) >> down
    if a.dtype.kind == "u":
        found = np.where(position >= bits, a.dtype.type(0), found)
    return np.where(length == 0, a.dtype.type(0), found)


def _inserted(a, b, position, length):
    """bfi.b32: b, but for the lowest bits of a from `position` on."""
    position, length = (x & _U32(255) for x in (position, length))
    ones = _shifted_left(
        _shifted_right(_U32(0xFFFFFFFF), _U32(32) - np.minimum(length, _U32(32))), position
    )
    return (_shifted_left(a, position) & ones) | (b & ~ones)


def _permuted(a, b, selector):
    """prmt.b32: four of the eight bytes of b:a; bit 3 of a selector repeats the byte's sign."""
    both = b.astype(_U64) << _U64(32) | a
    result = _U32(0)
    for place in range(4):
        chosen = selector >> _U32(4 * place)
        byte = (both >> ((chosen & _U32(7)) << _U32(3)).astype(_U64)).astype(_U32) & _U32(0xFF)
        sign = np.where(byte & _U32(0x80), _U32(0xFF), _U32(0))
        result = result | np.where(chosen & _U32(8), sign, byte) << _U32(8 * place)
    return result


def _selected(a, b, condition):
    return np.where(condition, a, b)


def _count_of_ones(a):
    return np.bitwise_count(a).astype(_U32)


COMPARISONS = {
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
}

for _size in SIZES:
    for _kind in "us":
        _type, _wider = _kind + _size, _kind + _wide(_size)
        _pair, _three = f"{_type} {_type}", f"{_type} {_type} {_type}"
        define(f"add.{_type}", _type, _pair, np.add)
        define(f"sub.{_type}", _type, _pair, np.subtract)
        define(f"mul.lo.{_type}", _type, _pair, np.multiply)
        define(f"mad.lo.{_type}", _type, _three, lambda a, b, c: a * b + c)
        define(f"div.{_type}", _type, _pair, lambda a, b: _divided(a, b)[0])
        define(f"rem.{_type}", _type, _pair, lambda a, b: _divided(a, b)[1])
        define(f"min.{_type}", _type, _pair, np.minimum)
        define(f"max.{_type}", _type, _pair, np.maximum)
        define(f"shr.{_type}", _type, f"{_type} u32", _shifted_right)
        if _size != "64":
            _long = DTYPES[_wider].type
            define(f"mul.wide.{_type}", _wider, _pair, _multiply_wide(_long))
            define(f"mad.wide.{_type}", _wider, f"{_pair} {_wider}", _multiply_add_wide(_long))
        if _size != "16":
            define(f"bfe.{_type}", _type, f"{_type} u32 u32", _field)
        for _name, _compare in COMPARISONS.items():
            define(f"setp.{_name}.{_type}", "pred", _pair, _compare)
    _bits = f"b{_size}"
    define(f"setp.eq.{_bits}", "pred", f"{_bits} {_bits}", np.equal)
    define(f"setp.ne.{_bits}", "pred", f"{_bits} {_bits}", np.not_equal)
    define(f"shl.{_bits}", _bits, f"{_bits} u32", _shifted_left)
    define(f"neg.s{_size}", f"s{_size}", f"s{_size}", np.negative)
    define(f"abs.s{_size}", f"s{_size}", f"s{_size}", np.abs)
for _kind in "us":
    _type = f"{_kind}32"
    define(f"mul.hi.{_type}", _type, f"{_type} {_type}", _multiply_high(_kind))
for _type in ("pred", "b16", "b32", "b64"):
    define(f"and.{_type}", _type, f"{_type} {_type}", np.bitwise_and)
    define(f"or.{_type}", _type, f"{_type} {_type}", np.bitwise_or)
    define(f"xor.{_type}", _type, f"{_type} {_type}", np.bitwise_xor)
    define(f"not.{_type}", _type, _type, np.invert)
for _type in ("b16", "b32", "b64", "u16", "u32", "u64", "s16", "s32", "s64", "f32", "f64"):
    define(f"selp.{_type}", _type, f"{_type} {_type} pred", _selected)
define("mad.lo.cc.u32", "u32 carry", "u32 u32 u32", _add_with_carry)
define("madc.hi.u32", "u32", "u32 u32 u32 carry", _high_with_carry)
define("shf.l.wrap.b32", "b32", "b32 b32 u32", _funnel)
define("prmt.b32", "b32", "b32 b32 b32", _permuted)
define("bfi.b32", "b32", "b32 b32 u32 u32", _inserted)
define("popc.b32", "u32", "b32", _count_of_ones)
define("popc.b64", "u32", "b64", _count_of_ones)
