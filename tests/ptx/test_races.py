"""Accesses that nothing orders are found, and those that something orders are let pass."""

from __future__ import annotations

import numpy as np
import pytest

from .order import BlockOrder
from .program import FaultError
from .small import launch

EACH = "mad.wide.u32 %rd10, %r0, 4, %rd1;"
MINE = "shl.b32 %r1, %r0, 2; xor.b32 %r2, %r1, {0}; st.shared.b32 [%r1], %r0; {1}"
MINE += "ld.shared.b32 %r3, [%r2];"
ACROSS_BLOCKS = "mov.u32 %r1, %ctaid.x; mad.wide.u32 %rd10, %r1, 4, %rd1;"


def numbers(count=64):
    return np.zeros(count, np.uint32)


@pytest.mark.parametrize(
    ("other", "meeting"), [(128, "bar.sync 0;"), (4, "bar.sync 0;"), (4, "bar.warp.sync -1;")]
)
def test_a_barrier_that_lacks_in_shared_memory(other, meeting):
    """Each thread reads what another wrote: of another warp (128 bytes away) or its own."""
    launch(MINE.format(other, meeting), numbers(), threads=64, shared=256)
    with pytest.raises(FaultError, match=r"a race: thread \d+ of block 0 reads what thread"):
        launch(MINE.format(other, ""), numbers(), threads=64, shared=256)


def test_warps_do_not_meet_at_a_barrier_of_a_warp():
    with pytest.raises(FaultError, match="a race"):
        launch(MINE.format(128, "bar.warp.sync -1;"), numbers(), threads=64, shared=256)


@pytest.mark.parametrize("readers", [32, 64])
def test_shared_memory_is_written_while_others_read(readers):
    """One thread writes what one warp, or two, may still be reading."""
    body = f"""setp.eq.u32 %p1, %r0, 0; setp.lt.u32 %p2, %r0, {readers};
    @%p1 st.shared.b32 [global_smem], 1; bar.sync 0;
    @%p2 ld.shared.b32 %r1, [global_smem]; {{0}}
    setp.eq.s32 %p3, %r0, {{1}}; @%p3 st.shared.b32 [global_smem], 2;"""

    def between(meeting, writer):
        text = body.replace("{0}", meeting).replace("{1}", str(writer))
        launch(text, numbers(), threads=96, shared=4)

    between("bar.sync 0;", 64)
    with pytest.raises(
        FaultError, match=r"thread 64 of block 0 writes what thread \d+ of block 0 read"
    ):
        between("", 64)
    # A warp's own loads come first.
    if readers == 32:
        between("", 5)
    for writer in (5, 37) if readers == 64 else ():
        with pytest.raises(FaultError, match="writes what"):
            between("", writer)


def test_two_threads_write_to_one_place():
    launch("st.global.b32 [%rd1], 7;", numbers(), threads=64)
    for value in ("%r0", "%r1"):
        with pytest.raises(FaultError, match="a race"):
            launch(f"shr.u32 %r1, %r0, 5; st.global.b32 [%rd1], {value};", numbers(), threads=64)
    # One after the other, without a barrier.
    turns = (
        "setp.lt.u32 %p1, %r0, 32; @%p1 st.global.b32 [%rd1], 1; {0} @!%p1 st.global.b32 [%rd1], 2;"
    )
    with pytest.raises(
        FaultError, match="thread 32 of block 0 writes what thread 31 of block 0 wrote"
    ):
        launch(turns.replace("{0}", ""), numbers(), threads=64)
    launch(turns.replace("{0}", "bar.sync 0;"), numbers(), threads=64)


def test_a_race_in_parts_of_a_word():
    """Bytes of threads side by side are no race; a word over another's byte is."""
    bytes_ = "cvt.u64.u32 %rd10, %r0; add.s64 %rd11, %rd1, %rd10; st.global.b8 [%rd11], %r0;"
    launch(bytes_, numbers(), threads=64)
    with pytest.raises(FaultError, match="a race"):
        launch(
            bytes_ + "setp.eq.u32 %p1, %r0, 9; @%p1 st.global.b32 [%rd1+32], 5;",
            numbers(),
            threads=64,
        )


@pytest.mark.parametrize("blocks", [2, 3000])  # at once, and one part after another
def test_races_between_blocks(blocks):
    one = "setp.eq.u32 %p1, %r0, 0; setp.eq.u32 %p2, %r1, 1;"
    launch(ACROSS_BLOCKS + one + "@%p1 st.global.b32 [%rd10], 1;", numbers(blocks), blocks=blocks)
    wrote = "@%p1 st.global.b32 [%rd10], 1; @%p2 ld.global.b32 %r5, [%rd1];"
    with pytest.raises(FaultError, match="of block 1 reads what thread 0 of block 0 wrote"):
        launch(ACROSS_BLOCKS + one + wrote, numbers(blocks), blocks=blocks)
    both = "@%p1 st.global.b32 [%rd1], %r1;"
    with pytest.raises(FaultError, match="a race"):
        launch(ACROSS_BLOCKS + one + both, numbers(blocks), blocks=blocks)
    last = f"setp.eq.u32 %p3, %r1, {blocks - 1}; and.pred %p3, %p3, %p1;"
    read = "ld.global.b32 %r5, [%rd1]; @%p3 st.global.b32 [%rd1], 9;"
    with pytest.raises(FaultError, match=f"of block {blocks - 1} writes what .* read"):
        launch(ACROSS_BLOCKS + one + last + read, numbers(blocks), blocks=blocks)


def test_a_reader_of_another_block_is_not_forgotten():
    """Two warps of the block that writes have read, too, and have met since."""
    body = """mov.u32 %r1, %ctaid.x; shl.b32 %r2, %r1, 6; add.s32 %r2, %r2, %r0;
    shr.u32 %r3, %r2, 5;
    setp.eq.u32 %p1, %r3, 0; setp.eq.u32 %p2, %r3, 2; setp.eq.u32 %p3, %r3, 3;
    {0} @%p2 ld.global.b32 %r5, [%rd1]; @%p3 ld.global.b32 %r5, [%rd1]; bar.sync 0;
    setp.eq.u32 %p4, %r2, 64; @%p4 st.global.b32 [%rd1], 1;"""
    launch(body.format(""), numbers(), threads=64, blocks=2)
    with pytest.raises(FaultError, match=r"of block 1 writes what thread \d+ of block 0 read"):
        launch(body.format("@%p1 ld.global.b32 %r5, [%rd1];"), numbers(), threads=64, blocks=2)


COUNTED = """mov.u32 %r1, %ctaid.x; mad.wide.u32 %rd10, %r1, 4, %rd1;
setp.eq.u32 %p1, %r0, {writer}; @%p1 st.global.b32 [%rd10], 1;
{before} setp.eq.u32 %p2, %r0, 0;
@%p2 atom.global.gpu.{order}.add.u32 %r2, [%rd2], 1;
@%p2 st.shared.b32 [global_smem], %r2; bar.sync 0; ld.shared.b32 %r3, [global_smem];
mov.u32 %r4, %nctaid.x; add.s32 %r4, %r4, -1; setp.eq.u32 %p3, %r3, %r4;
@!%p3 bra $L;
mad.wide.u32 %rd11, %r0, 4, %rd1; setp.lt.u32 %p4, %r0, %r4; @%p4 ld.global.cg.b32 %r5, [%rd11];
@%p2 st.global.b32 [%rd2], 0;
$L:"""


@pytest.mark.parametrize("seed", range(4))
def test_the_last_block_may_read_what_the_others_released(seed):
    parts = {"writer": 33, "before": "bar.sync 0;", "order": "acq_rel"}

    def count(**changes):
        done = numbers(1)
        body = COUNTED.format(**parts | changes)
        launch(body, numbers(), done, threads=64, blocks=40, shared=4, seed=seed)
        return done[0]

    assert count() == 0
    with pytest.raises(FaultError, match="a race"):
        count(order="relaxed")
    # Without a barrier, one thread doesn't release what another wrote.
    with pytest.raises(FaultError, match="a race"):
        count(before="")


def test_an_atomic_beside_a_plain_access():
    body = "setp.eq.u32 %p1, %r0, 0; @%p1 st.global.b32 [%rd1], 1; {0}"
    body += "setp.eq.u32 %p2, %r0, 40; @%p2 atom.global.gpu.relaxed.add.u32 %r1, [%rd1], 1;"
    launch(body.format("bar.sync 0;"), numbers(), threads=64)
    with pytest.raises(FaultError, match="a race: thread 40 of block 0 changes what thread 0"):
        launch(body.format(""), numbers(), threads=64)


def test_an_atomic_of_what_others_read():
    body = "setp.eq.u32 %p1, %r0, {reader}; @%p1 ld.global.b32 %r1, [%rd1]; {between}"
    body += "setp.eq.u32 %p2, %r0, 40; @%p2 atom.global.gpu.relaxed.add.u32 %r1, [%rd1], 1;"
    launch(body.format(reader=0, between="bar.sync 0;"), numbers(), threads=64)
    launch(body.format(reader=41, between=""), numbers(), threads=64)
    with pytest.raises(
        FaultError, match="thread 40 of block 0 changes what thread 0 of block 0 read"
    ):
        launch(body.format(reader=0, between=""), numbers(), threads=64)


def test_what_blocks_know_is_passed_on():
    order = BlockOrder(3)

    def before(block, time, later):
        return order.before(*(np.array([x]) for x in (block, time, later)))[0]

    order.exchange(100, 0, 5)
    order.exchange(100, 1, 7)
    assert not before(0, 4, 1)  # not without a barrier
    order.meet(1)
    assert before(0, 4, 1) and not before(0, 5, 1)
    order.exchange(200, 1, 8)
    order.exchange(200, 2, 3)
    order.exchange(300, 2, 3)
    order.meet(2)
    assert before(1, 7, 2) and before(0, 4, 2) and not before(0, 5, 2)


def test_a_constant_load_of_what_is_written():
    own = EACH + "st.global.b32 [%rd10], 1; {0} %r1, [%rd10];"
    launch(own.format("ld.global.b32"), numbers())
    with pytest.raises(FaultError, match="through the cache for constants"):
        launch(own.format("ld.global.nc.b32"), numbers())
