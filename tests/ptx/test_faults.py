"""Every fault is found, and what is none is let pass."""

from __future__ import annotations

import numpy as np
import pytest

from .program import FaultError
from .small import kernel, launch

EACH = "mad.wide.u32 %rd10, %r0, 4, %rd1;"
MINE = "shl.b32 %r1, %r0, 2; xor.b32 %r2, %r1, {0}; st.shared.b32 [%r1], %r0; {1}"
MINE += "ld.shared.b32 %r3, [%r2];"
ACROSS_BLOCKS = "mov.u32 %r1, %ctaid.x; mad.wide.u32 %rd10, %r1, 4, %rd1;"


def numbers(count=64):
    return np.zeros(count, np.uint32)


def test_a_misaligned_access():
    tensor = numbers()
    launch("ld.global.v2.b32 {%r1, %r2}, [%rd1+8];", tensor)
    for access in ("ld.global.v2.b32 {%r1, %r2}, [%rd1+4];", "st.global.b32 [%rd1+2], %r0;"):
        with pytest.raises(FaultError, match="at an address that is no multiple"):
            launch(access, tensor)
    with pytest.raises(FaultError, match="at an address that is no multiple of 8"):
        launch("st.shared.b64 [global_smem+4], %rd1;", tensor, shared=64)


@pytest.mark.parametrize(
    "access",
    [
        "ld.global.b32 %r1, [%rd1+256];",
        "ld.global.b32 %r1, [%rd1+-4];",
        "ld.global.v4.b32 {%r1, %r2, %r3, %r4}, [%rd1+256];",
        "st.global.b32 [%rd1+256], %r0;",
        "st.global.b8 [%rd9], %r0;",  # never set
        "atom.global.gpu.relaxed.add.u32 %r1, [%rd1+256], 1;",
    ],
)
def test_an_access_out_of_every_tensor(access):
    whole = numbers(72)
    with pytest.raises(FaultError, match="out of every tensor"):
        launch(access, whole[4:68])
    launch("setp.eq.u32 %p1, %r0, 99; @%p1 " + access, whole[4:68])


def test_the_tensors_ends_are_theirs():
    launch("ld.global.b32 %r1, [%rd1+252]; ld.global.b32 %r2, [%rd1];", numbers())


def test_beyond_shared_memory():
    launch("st.shared.b32 [global_smem+28], 1;", numbers(), shared=32)
    for place in ("global_smem+32", "global_smem+-4"):
        with pytest.raises(FaultError, match="beyond the 32 of shared memory"):
            launch(f"st.shared.b32 [{place}], 1;", numbers(), shared=32)


def test_shared_memory_that_nobody_has_written():
    with pytest.raises(FaultError, match="reads shared memory that nobody has written"):
        launch(
            "st.shared.b8 [global_smem], 1; ld.shared.b16 %rs1, [global_smem];", numbers(), shared=8
        )
    # Bytes of no use may be anything.
    body = """mov.b64 %rd10, 5; st.shared.b64 [global_smem], %rd10;
    st.shared.b32 [global_smem+8], 1; bar.sync 0; {0}
    ld.shared.v4.b32 {%r1, %r2, %r3, %r4}, [global_smem];"""
    launch(body.replace("{0}", '.pragma "used_bytes_mask 0xfff";'), numbers(), shared=16)
    for mask in ("", '.pragma "used_bytes_mask 0xf0ff";'):
        with pytest.raises(FaultError, match="nobody has written"):
            launch(body.replace("{0}", mask), numbers(), shared=16)
    # The pragma is about the next load alone.
    again = '.pragma "used_bytes_mask 0xfff"; ld.shared.b32 %r1, [global_smem];'
    with pytest.raises(FaultError, match="nobody has written"):
        launch(body.replace("{0}", again), numbers(), shared=16)


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


def test_a_barrier_that_some_never_reach():
    for leave in ("@%p1 bra $L;", "@%p1 ret;"):
        body = f"setp.lt.u32 %p1, %r0, 32; {leave} bar.sync 0;\n$L:"
        with pytest.raises(FaultError, match="a barrier that others don't reach"):
            launch(body, numbers(), threads=64)
    body = "setp.lt.u32 %p1, %r0, 32; @%p1 bra $L; bar.sync 0; bra.uni $M;\n$L: bar.sync 0;\n$M:"
    with pytest.raises(FaultError, match="a barrier that others don't reach"):
        launch(body, numbers(), threads=64)


def test_a_constant_load_of_what_is_written():
    own = EACH + "st.global.b32 [%rd10], 1; {0} %r1, [%rd10];"
    launch(own.format("ld.global.b32"), numbers())
    with pytest.raises(FaultError, match="through the cache for constants"):
        launch(own.format("ld.global.nc.b32"), numbers())


def test_threads_part_and_meet():
    out = numbers()
    launch(
        EACH
        + """and.b32 %r1, %r0, 3; mov.b32 %r2, 0;
        $TOP: setp.eq.u32 %p1, %r1, 0; @%p1 bra $OUT;
        add.s32 %r2, %r2, 10; add.s32 %r1, %r1, -1; bra.uni $TOP;
        $OUT: bar.sync 0; setp.lt.u32 %p2, %r0, 5; @!%p2 add.s32 %r2, %r2, 1;
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
