"""What the machine computes, where NumPy alone would round twice, wrap or choose otherwise."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from .rounding import as_float32, to_bfloat16
from .small import compute, launch, nearest

NAN, INF = float("nan"), float("inf")


def f32(*values):
    return np.array(values, np.float32)


def u32(*values):
    return np.array(values, np.uint32)


def bf16(*values):
    return to_bfloat16(f32(*values))


def hard(count, name, seed=0):
    """Factors and addends of which many exact sums lie in the middle of two floats, or nearly."""
    rng = np.random.default_rng(seed)
    digits = {"f32": 12, "f64": 26, "bf16": 4}[name]
    a, b = (1 + rng.integers(0, 1 << digits, count) / (1 << digits) for _ in range(2))
    c = rng.choice([-1.0, 1.0], count) * np.exp2(-rng.integers(2 * digits - 3, 140, count))
    a *= np.exp2(rng.integers(-3, 4, count))
    return a, b, np.where(rng.random(count) < 0.3, rng.normal(size=count), c)


def exact(a, b, c):
    return [
        Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z))
        for x, y, z in zip(a, b, c, strict=True)
    ]


def test_fma_rounds_once():
    for name in ("f32", "f64"):
        a, b, c = (
            x.astype(name.replace("f32", "f4").replace("f64", "f8")) for x in hard(4096, name)
        )
        expected = np.array([nearest(x, name) for x in exact(a, b, c)])
        assert (compute(f"fma.rn.{name}", a.dtype, a, b, c) == expected).all()
        # Such inputs tell one rounding from two.
        twice = a * b + c if name == "f64" else (a.astype(np.float64) * b + c).astype(np.float32)
        assert (twice != expected).any()


def test_fma_of_tiny_products_rounds_once():
    a, b, c = hard(4096, "f32", 1)
    a, b, c = (x.astype(np.float32) for x in (a * 2.0**-70, b * 2.0**-70, c * 2.0**-135))
    expected = np.array([nearest(x, "f32") for x in exact(a, b, c)])
    assert (compute("fma.rn.f32", "f4", a, b, c) == expected).all()
    assert 0 < np.abs(expected).max() < 2.0**-126
    # 2^-196 less than the middle of two subnormal numbers.
    near, low = 2.0**-75 * (1 + 2.0**-23), 2.0**-75 * (1 - 2.0**-23)
    odd = 2.0**-127 + 2.0**-149
    assert compute("fma.rn.f32", "f4", f32(near), f32(low), f32(odd)) == odd
    flushed = compute("fma.rn.ftz.f32", "f4", a, b, c)
    assert (flushed == 0).all()


def test_fma_of_what_is_not_finite():
    a, b, c = f32(INF, INF, NAN, 1, 3e38), f32(1, 0, 1, 1, 10), f32(1, 1, 1, -INF, 0)
    found = compute("fma.rn.f32", "f4", a, b, c)
    assert np.array_equal(found, f32(INF, NAN, NAN, -INF, INF), equal_nan=True)
    wide = compute("fma.rn.f64", "f8", *(x.astype(np.float64) for x in (a[:4], b[:4], c[:4])))
    assert np.array_equal(wide, found[:4], equal_nan=True)


@pytest.mark.parametrize("opcode", ["add", "sub", "mul", "fma.rn"])
def test_bfloat16_is_rounded_once(opcode):
    a, b, c = (bf16(*x) for x in hard(4096, "bf16"))
    x, y, z = (as_float32(n) for n in (a, b, c))
    one, nothing = np.ones_like(x), np.zeros_like(x)
    terms = {"add": (x, one, z), "sub": (x, one, -z), "mul": (x, y, nothing), "fma.rn": (x, y, z)}
    expected = [nearest(number, "bf16") for number in exact(*terms[opcode])]
    operands = {"mul": (a, b), "fma.rn": (a, b, c)}.get(opcode, (a, c))
    found = compute(f"{opcode}.bf16", "u2", *operands)
    assert (as_float32(found) == expected).all()
    pairs = [np.ascontiguousarray(n).view(np.uint32) for n in operands]
    assert (compute(f"{opcode}.bf16x2", "u4", *pairs).view(np.uint16) == found).all()
    if opcode == "fma.rn":
        assert (as_float32(to_bfloat16(x * y + z)) != expected).any()


def test_packed_float32():
    rng = np.random.default_rng(0)
    a, b, c = (rng.normal(size=64).astype(np.float32) for _ in range(3))
    pairs = [x.view(np.uint64) for x in (a, b, c)]
    found = compute("fma.rn.f32x2", "u8", *pairs).view(np.float32)
    assert (found == compute("fma.rn.f32", "f4", a, b, c)).all()
    assert (compute("sub.f32x2", "u8", *pairs[:2]).view(np.float32) == a - b).all()


def test_mixed_precision():
    a, c = bf16(1.0, 3.0), f32(2.0**-20, 5.0)
    assert compute("add.rn.f32.bf16", "f4", a, c).tolist() == [1 + 2.0**-20, 8]
    assert compute("sub.rn.f32.bf16", "f4", a, c).tolist() == [1 - 2.0**-20, -2]
    assert compute("fma.rn.f32.bf16", "f4", a, a, c).tolist() == [1 + 2.0**-20, 14]


def test_floats_become_integers():
    x = f32(2.5, -2.5, 3.5, 3e9, -3e9, NAN, INF, -INF, -0.75, 2147483648.0)
    most, least = 2**31 - 1, -(2**31)
    rounded = [2, -2, 4, most, least, 0, most, least, -1, most]
    assert compute("cvt.rni.s32.f32", "i4", x).tolist() == rounded
    assert compute("cvt.rzi.s32.f32", "i4", x)[:3].tolist() == [2, -2, 3]
    assert compute("cvt.rmi.s32.f32", "i4", x)[:3].tolist() == [2, -3, 3]
    assert compute("cvt.rpi.s32.f32", "i4", x)[:3].tolist() == [3, -2, 4]
    assert compute("cvt.rzi.u16.f32", "u2", f32(70000, -5, 1.9, NAN)).tolist() == [65535, 0, 1, 0]
    wide = compute("cvt.rzi.s64.f32", "i8", f32(2.0**63, -(2.0**63), NAN, 2.0**62))
    assert wide.tolist() == [2**63 - 1, -(2**63), -(2**63), 2**62]
    assert compute("cvt.rzi.s32.f64", "i4", np.array([NAN, 1e10])).tolist() == [least, most]


def test_integers_become_floats_by_one_rounding():
    x = np.array([2**24 + 1, 2**53 + 2**29 + 1, 2**53 + 2**29, -(2**63), 2**63 - 1], np.int64)
    expected = [nearest(Fraction(int(n)), "f32") for n in x]
    assert compute("cvt.rn.f32.s64", "f4", x).tolist() == expected
    assert expected[1] != float(np.float32(float(int(x[1]))))


def test_bfloat16_from_and_to_float32():
    x = f32(1 + 2.0**-8, 1 + 3 * 2.0**-8, -(1 + 2.0**-8 + 2.0**-20), NAN, INF, 3.4e38, 1e-40)
    expected = [nearest(Fraction(float(n)), "bf16") for n in (x[0], x[1], x[2], x[6])]
    found = compute("cvt.rn.bf16.f32", "u2", x)
    assert as_float32(found)[[0, 1, 2, 6]].tolist() == expected
    assert found[3] == 0x7FFF and as_float32(found)[[4, 5]].tolist() == [INF, INF]
    assert compute("cvt.f32.bf16", "f4", found[:1]).tolist() == expected[:1]
    # The first operand is the upper half.
    assert compute("cvt.rn.bf16x2.f32", "u4", f32(1), f32(2)) == [0x3F804000]


def test_shifts_by_the_width_or_more():
    x, by = u32(0x80000001, 0x80000001, 0x80000001, 0x80000001), u32(1, 31, 32, 0xFFFFFFFF)
    assert compute("shl.b32", "u4", x, by).tolist() == [2, 1 << 31, 0, 0]
    assert compute("shr.u32", "u4", x, by).tolist() == [0x40000000, 1, 0, 0]
    assert compute("shr.s32", "i4", x, by).tolist() == [-(2**30), -1, -1, -1]
    assert compute("shl.b64", "u8", np.uint64(3), u32(63, 64)).tolist() == [1 << 63, 0]
    assert compute("shr.s64", "i8", np.int64(-4), u32(1, 64)).tolist() == [-2, -1]
    assert compute("shl.b16", "u2", np.uint16(0x8001), u32(1, 16)).tolist() == [2, 0]
    assert compute("shf.l.wrap.b32", "u4", u32(0x80000000), u32(5), u32(1, 33)).tolist() == [11, 11]


def test_products_and_their_upper_halves():
    x = np.array([2**31 - 1, -(2**31), -1, 123456789], np.int32)
    wide = x.astype(object) * x[::-1].astype(object)
    assert compute("mul.hi.s32", "i4", x, x[::-1]).tolist() == [n >> 32 for n in wide]
    assert compute("mul.wide.s32", "i8", x, x[::-1]).tolist() == wide.tolist()
    assert compute("mul.lo.s32", "u4", x, x[::-1]).tolist() == [n % 2**32 for n in wide]
    y = x.view(np.uint32).astype(object)
    found = compute("mul.hi.u32", "u4", x, x[::-1])
    assert found.tolist() == [int(a) * int(b) >> 32 for a, b in zip(y, y[::-1], strict=True)]
    add = np.array([-5], np.int64)
    assert compute("mad.wide.s32", "i8", x, x[::-1], add).tolist() == [n - 5 for n in wide]


def test_division_is_towards_zero():
    a, b = np.array([7, -7, 7, -7], np.int32), np.array([2, 2, -2, -2], np.int32)
    assert compute("div.s32", "i4", a, b).tolist() == [3, -3, -3, 3]
    assert compute("rem.s32", "i4", a, b).tolist() == [1, -1, 1, -1]


def test_a_carry_goes_on():
    out = np.zeros(2, np.uint32)
    launch(
        """mov.b32 %r1, 0xFFFFFFFF;
        mad.lo.cc.u32 %r2, %r1, %r1, %r1;
        madc.hi.u32 %r3, %r1, %r1, 5;
        st.global.v2.b32 [%rd1], {%r2, %r3};""",
        out,
    )
    assert int(out[0]) + (int(out[1]) << 32) == ((2**32 - 1) * 2**32 + (5 << 32)) % 2**64


def test_bytes_are_permuted():
    a, b = u32(0x83828180), u32(0x07060504)
    selectors = u32(0x3210, 0x7654, 0x0000, 0xB8C4, 0x7773)
    found = compute("prmt.b32", "u4", a, b, selectors)
    assert [hex(x) for x in found] == [
        "0x83828180",
        "0x7060504",
        "0x80808080",
        "0xffff0004",
        "0x7070783",
    ]


def test_fields_of_bits():
    x = np.array([0x80000F00], np.uint32)
    position, length = u32(8, 8, 31, 28, 0, 40), u32(4, 5, 1, 10, 0, 3)
    assert compute("bfe.u32", "u4", x, position, length).tolist() == [15, 15, 1, 8, 0, 0]
    assert compute("bfe.s32", "i4", x, position, length).tolist() == [-1, 15, -1, -8, 0, -1]


def test_bits_are_inserted():
    a, b, position, length = u32(0xABCD), u32(0x11111111), u32(8, 0, 28, 32, 3), u32(8, 32, 8, 4, 0)
    expected = [0x1111CD11, 0xABCD, 0xD1111111, 0x11111111, 0x11111111]
    assert compute("bfi.b32", "u4", a, b, position, length).tolist() == expected


def test_the_smallest_and_largest():
    a, b = f32(0.0, -0.0, NAN, 1, NAN), f32(-0.0, 0.0, 2, NAN, NAN)
    smallest, largest = compute("min.f32", "f4", a, b), compute("max.f32", "f4", a, b)
    assert np.signbit(smallest[:2]).all() and not np.signbit(largest[:2]).any()
    assert smallest[2:4].tolist() == largest[2:4].tolist() == [2, 1]
    assert np.isnan(smallest[4]) and np.isnan(largest[4])
    assert compute("max.f32", "f4", f32(1), f32(2), f32(3, -1, NAN)).tolist() == [3, 2, 2]


def test_comparisons_with_nan():
    a, b = f32(1, NAN, 2), f32(1, 1, 1)
    expected = {"eq": 0b001, "ne": 0b100, "neu": 0b110, "gt": 0b100, "gtu": 0b110, "lt": 0}
    expected |= {"ltu": 0b010, "equ": 0b011, "num": 0b101, "nan": 0b010}
    for name, which in expected.items():
        found = compute(f"setp.{name}.f32", "pred", a, b)
        assert found.tolist() == [bool(which >> i & 1) for i in range(3)], name
    assert compute("setp.lt.u32", "pred", u32(1), u32(2**32 - 1)).tolist() == [True]
    assert compute("setp.lt.s32", "pred", u32(1), u32(2**32 - 1)).tolist() == [False]


def test_signs():
    # The first operand's sign, the second's size.
    found = compute("copysign.f64", "f8", np.array([-2.0, 3.0]), np.array([5.0, -7.0]))
    assert found.tolist() == [-5, 7]
    assert compute("abs.ftz.f32", "f4", f32(-1e-40, -3)).tolist() == [0, 3]


APPROXIMATE = {
    "ex2.approx.f32": (np.exp2, 2 * 2.0**-23, 1),
    "rsqrt.approx.ftz.f32": (lambda x: 1 / np.sqrt(x), 2.0**-22.9, 1),
    "rcp.approx.ftz.f32": (lambda x: 1 / x, 2.0**-23, 1),
    "div.full.f32": (lambda x, y: x / y, 2 * 2.0**-23, 2),
}


@pytest.mark.parametrize("opcode", APPROXIMATE)
def test_approximate_results_lie_within_their_error(opcode):
    function, most, operands = APPROXIMATE[opcode]
    rng = np.random.default_rng(0)
    given = [rng.uniform(0.5, 9, 4096).astype(np.float32) for _ in range(operands)]
    right = function(*(x.astype(np.float64) for x in given))
    best = right.astype(np.float32)
    assert (compute(opcode, "f4", *given) == best).all()
    found = [compute(opcode, "f4", *given, seed=seed) for seed in (1, 1, 2)]
    assert (found[0] == found[1]).all() and (found[0] != found[2]).any()
    error = np.abs(found[0] / right - 1)
    assert 0.9 * most < error.max() <= most
    assert (found[0] > best).any() and (found[0] < best).any()


def test_what_is_exact_stays_so():
    for seed in (0, 1, 2):
        powers = compute("ex2.approx.f32", "f4", f32(0, -0.0, -INF, INF, NAN, -200), seed=seed)
        assert np.array_equal(powers, f32(1, 1, 0, INF, NAN, 0), equal_nan=True)
        assert compute("rsqrt.approx.ftz.f32", "f4", f32(INF, 1e-40), seed=seed).tolist() == [
            0,
            INF,
        ]
