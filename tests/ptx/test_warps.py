"""What the threads of a warp do together, and atomics."""

from __future__ import annotations

import numpy as np
import pytest

from .program import FaultError
from .small import launch

EACH = "mad.wide.u32 %rd10, %r0, 4, %rd1;"
SHUFFLE = EACH + "shfl.sync.{0}.b32 %r2|%p1, %r0, {1}, {2}, -1; selp.b32 %r3, 100, 0, %p1;"


@pytest.mark.parametrize(
    ("kind", "distance", "limits", "source"),
    [
        ("up", 3, 0, lambda i: i - 3 if i >= 3 else None),
        ("down", 3, 31, lambda i: i + 3 if i + 3 < 32 else None),
        ("bfly", 5, 31, lambda i: i ^ 5),
        ("idx", 7, 31, lambda i: 7),
        # In segments of eight lanes.
        ("up", 3, 0x1800, lambda i: i - 3 if i % 8 >= 3 else None),
        ("down", 3, 0x1807, lambda i: i + 3 if i % 8 < 5 else None),
        ("idx", 9, 0x1807, lambda i: i // 8 * 8 + 1),
        ("bfly", 8, 0x1807, lambda i: i ^ 8 if i & 8 else None),
    ],
)
def test_lanes_get_each_others_numbers(kind, distance, limits, source):
    out = np.zeros(64, np.uint32)
    body = SHUFFLE.format(kind, distance, limits)
    launch(body + "add.s32 %r4, %r2, %r3; st.global.b32 [%rd10], %r4;", out, threads=64)
    for lane in range(32):
        sent = source(lane)
        expected = lane if sent is None else sent + 100
        assert out[lane] == expected and out[32 + lane] == expected + 32


@pytest.mark.parametrize(
    "together",
    [
        "shfl.sync.bfly.b32 %r2, %r0, 1, 31, -1;",
        "redux.sync.add.s32 %r2, %r0, -1;",
        "bar.warp.sync -1;",
        "ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r2}, [global_smem];",
    ],
)
def test_part_of_a_warp_is_a_fault(together):
    out = np.zeros(32, np.uint32)
    part = "setp.lt.u32 %p1, %r0, 7; @%p1 "
    with pytest.raises(FaultError, match="some threads of a warp take part"):
        launch(part + together, out, shared=512)
    with pytest.raises(FaultError, match="some threads of a warp take part"):
        launch(f"setp.lt.u32 %p1, %r0, 7; @%p1 bra $L; {together}\n$L:", out, shared=512)
    # Whole warps may stay away.
    launch("setp.lt.u32 %p1, %r0, 32; @%p1 bar.warp.sync -1;", out, threads=64)


def test_a_mask_of_part_of_a_warp_is_a_fault():
    with pytest.raises(FaultError, match="a mask that doesn't name the whole warp"):
        launch("shfl.sync.bfly.b32 %r2, %r0, 1, 31, 0xFFFF;", np.zeros(1, np.uint32))


def test_one_number_of_a_warp():
    numbers = np.random.default_rng(0).integers(-100, 100, 64).astype(np.int32)
    floats = numbers.astype(np.float32) / 7
    floats[[3, 40]] = np.nan
    expected = {"add": np.sum, "min": np.min, "max": np.max}
    for name, function in expected.items():
        given = numbers.copy()
        body = f"ld.global.b32 %r2, [%rd10]; redux.sync.{name}.s32 %r3, %r2, -1;"
        launch(EACH + body + "st.global.b32 [%rd10], %r3;", given, threads=64)
        assert (given.reshape(2, 32) == function(numbers.reshape(2, 32), 1)[:, None]).all()
    given = floats.copy()
    body = (
        "ld.global.b32 %r2, [%rd10]; redux.sync.max.f32 %r3, %r2, -1; st.global.b32 [%rd10], %r3;"
    )
    launch(EACH + body, given, threads=64)
    assert (given.reshape(2, 32) == np.nanmax(floats.reshape(2, 32), 1)[:, None]).all()


ROWS = "shl.b32 %r1, %r0, 4; mov.b32 %r2, global_smem; add.s32 %r2, %r2, %r1;"
IN = "mad.wide.u32 %rd10, %r0, 16, %rd1; mad.wide.u32 %rd11, %r0, 16, %rd2;"


@pytest.mark.parametrize("turned", ["", ".trans"])
def test_matrices_go_to_the_threads_and_back(turned):
    # Four matrices of 8 × 8, whose rows lie one behind the other.
    numbers = np.arange(256, dtype=np.uint16)
    found = np.zeros((32, 4, 2), np.uint16)
    put = "ld.global.v4.b32 {%r10, %r11, %r12, %r13}, [%rd10];"
    put += "st.shared.v4.b32 [%r2], {%r10, %r11, %r12, %r13}; bar.sync 0;"
    name = f"sync.aligned.m8n8.x4{turned}.shared.b16"
    load = f"ldmatrix.{name} {{%r10, %r11, %r12, %r13}}, [%r2];"
    give = "st.global.v4.b32 [%rd11], {%r10, %r11, %r12, %r13};"
    launch(IN + ROWS + put + load + give, numbers, found, shared=512)
    matrices = numbers.reshape(4, 8, 8)
    if turned:
        matrices = matrices.transpose(0, 2, 1)
    # Thread i has numbers 2 (i mod 4) and the next of row i // 4 of each matrix.
    assert (found.transpose(1, 0, 2).reshape(4, 8, 8) == matrices).all()
    back = np.zeros(256, np.uint16)
    take = "ld.global.v4.b32 {%r10, %r11, %r12, %r13}, [%rd10];"
    store = f"stmatrix.{name} [%r2], {{%r10, %r11, %r12, %r13}}; bar.sync 0;"
    read = "ld.shared.v4.b32 {%r10, %r11, %r12, %r13}, [%r2];"
    launch(IN + ROWS + take + store + read + give, found, back, shared=512)
    assert (back == numbers).all()


def test_blocks_take_their_turns_in_any_order():
    """Each adds to a count twice: where they run one after another, without others between."""
    body = """setp.eq.u32 %p1, %r0, 0; mov.u32 %r1, %ctaid.x; mad.wide.u32 %rd10, %r1, 8, %rd1;
    @%p1 atom.global.gpu.relaxed.add.u32 %r2, [%rd2], 1;
    @%p1 atom.global.gpu.relaxed.add.u32 %r3, [%rd2], 1;
    @%p1 st.global.v2.b32 [%rd10], {%r2, %r3};"""
    alone = []
    for seed in range(12):
        found = np.zeros((20, 2), np.uint32)
        launch(body, found, np.zeros(1, np.uint32), blocks=20, seed=seed)
        first, second = found.astype(int).T
        assert (np.diff(first) < 0).any()
        alone.append((second == first + 1).all())
    assert any(alone) and not all(alone)


def test_atomics_add_in_some_order():
    found, sums = np.zeros(128, np.uint32), np.full(2, 7, np.uint32)
    body = """and.b32 %r1, %r0, 1; mad.wide.u32 %rd10, %r1, 4, %rd2;
    mov.u32 %r3, %ctaid.x; shl.b32 %r3, %r3, 6; add.s32 %r3, %r3, %r0;
    mad.wide.u32 %rd11, %r3, 4, %rd1;
    atom.global.gpu.relaxed.add.u32 %r2, [%rd10], 3; st.global.b32 [%rd11], %r2;"""
    within = set()
    for seed in range(4):
        launch(body, found, sums, threads=64, seed=seed)
        within.add(tuple((found[:64] - found[:64].min()).tolist()))
    assert len(within) == 4
    orders = set()
    for seed in range(4):
        sums[:] = 7
        launch(body, found, sums, threads=64, blocks=2, seed=seed)
        assert sums.tolist() == [7 + 3 * 64] * 2
        for parity in (0, 1):
            assert sorted(found[parity::2].tolist()) == list(range(7, 7 + 3 * 64, 3))
        orders.add(tuple(found.tolist()))
    assert len(orders) > 1
