"""What is read of a kernel, what is refused, and how threads go through it."""

from __future__ import annotations

import numpy as np
import pytest

from .machine import run
from .program import FaultError, read
from .small import kernel, launch

EACH = "mad.wide.u32 %rd10, %r0, 4, %rd1;"


def numbers(count=64):
    return np.zeros(count, np.uint32)


def test_a_barrier_that_some_never_reach():
    for leave in ("@%p1 bra $L;", "@%p1 ret;"):
        body = f"setp.lt.u32 %p1, %r0, 32; {leave} bar.sync 0;\n$L:"
        with pytest.raises(FaultError, match="a barrier that others don't reach"):
            launch(body, numbers(), threads=64)
    body = "setp.lt.u32 %p1, %r0, 32; @%p1 bra $L; bar.sync 0; bra.uni $M;\n$L: bar.sync 0;\n$M:"
    with pytest.raises(FaultError, match="a barrier that others don't reach"):
        launch(body, numbers(), threads=64)


def test_threads_part_and_meet():
    out = numbers()
    launch(
        EACH
        + """and.b32 %r1, %r0, 3; mov.b32 %r2, 0;
        $TOP: setp.eq.u32 %p1, %r1, 0; @%p1 bra $OUT;
        add.s32 %r2, %r2, 10; add.s32 %r1, %r1, -1; bra.uni $TOP;
        $OUT: redux.sync.max.s32 %r3, %r2, -1; bar.sync 0;
        setp.lt.u32 %p2, %r0, 5; @!%p2 add.s32 %r2, %r2, 1;
        st.global.b32 [%rd10], %r2;""",
        out,
        threads=64,
    )
    assert out.tolist() == [10 * (i % 4) + (i >= 5) for i in range(64)]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("frobnicate.b32 %r1, %r2;", "frobnicate.b32 is not known here"),
        ("add.sat.s32 %r1, %r2, %r3;", "add.sat.s32 is not known here"),
        ("ldmatrix.sync.aligned.m8n8.x2.trans.shared::cta.b16 {%r1, %r2}, [%r3];", "is not known"),
        ("ld.global.volatile.b32 %r1, [%rd1];", "is not known here"),
        ("cp.async.cg.shared.global [%r1], [%rd1], 16;", "is not known here"),
        ("ld.global.b64 %r1, [%rd1];", "%r1 is too small"),
        ("add.s32 %r1, %r2;", "not known with such operands"),
        ("add.s32 %r1, %r2, %rd1;", "%rd1 is no register of 4 bytes"),
        ("add.s32 %r1, %r2, what;", "what is not understood"),
        ("bar.sync 1;", "not known with such operands"),
        ("bra $NOWHERE;", "not known with such operands"),
        (".maxnreg 32;", "not understood: .maxnreg 32"),
    ],
)
def test_what_is_not_known_is_an_error_before_anything_runs(wrong, message):
    out = numbers()
    with pytest.raises(FaultError, match=message):
        launch(EACH + "st.global.b32 [%rd10], 1; ret;" + wrong, out)
    assert not out.any()


def test_a_register_is_declared_once():
    with pytest.raises(FaultError, match="%r1 is declared twice"):
        kernel("{ .reg .b32 %r1; }", 1)


def test_a_grid_has_its_limits():
    program = kernel("", 0)
    run(program, (1, 65535, 1), {})
    for grid in ((0, 1, 1), (1, 65536, 1), (2**31, 1, 1)):
        with pytest.raises(FaultError, match="a grid of"):
            run(program, grid, {})


def test_one_kernel_is_read():
    one = ".visible .entry small() .reqntid 32 { ret; }"
    assert read(one).name == "small"
    for other in (one + one, one + ".visible .func f() { ret; }", ""):
        with pytest.raises(FaultError, match="one kernel is needed"):
            read(other)
    with pytest.raises(FaultError, match="whole warps"):
        read(one.replace("32", "48"))
