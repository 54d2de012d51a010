"""Accesses that go astray are found, and the others are let pass."""

from __future__ import annotations

import numpy as np
import pytest

from .program import FaultError
from .small import launch

EACH = "mad.wide.u32 %rd10, %r0, 4, %rd1;"


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


def test_tensors_that_overlap():
    whole = numbers()
    launch("ld.global.b32 %r1, [%rd1+252]; st.global.b32 [%rd2], 7;", whole, whole[8:16])
    assert whole[8] == 7
    with pytest.raises(FaultError, match="a race"):
        launch("ld.global.b32 %r1, [%rd1+32]; st.global.b32 [%rd2], %r0;", whole, whole[8:16])


def test_a_pointer_may_go_through_shared_memory():
    out = numbers()
    through = "st.shared.b64 [global_smem], %rd1; bar.sync 0; ld.shared.b64 %rd5, [global_smem];"
    launch(through + "st.global.b32 [%rd5], 7;", out, shared=8)
    assert out[0] == 7


LOCAL = ".local .align 8 .b8 own[12]; mov.b64 %rd9, own; add.u64 %rd8, %rd9, 0;"


def test_a_threads_own_memory():
    out = numbers(32)
    body = EACH + LOCAL + "st.local.b32 [%rd8+8], %r0; ld.local.b32 %r1, [%rd8+{0}];"
    launch(body.format(8) + "st.global.b32 [%rd10], %r1;", out)
    assert out.tolist() == list(range(32))
    for offset, message in ((4, "never wrote"), (12, "beyond the 12"), (6, "no multiple of 4")):
        with pytest.raises(FaultError, match=message):
            launch(body.format(offset), out)


def test_a_smaller_number_fills_its_register():
    out = np.array([-7, 0], np.int32)
    launch("ld.global.s32 %rd9, [%rd1]; bar.sync 0; st.global.b64 [%rd1], %rd9;", out)
    assert out.view(np.int64) == -7
    launch("ld.global.u32 %rd9, [%rd1]; bar.sync 0; st.global.b64 [%rd1], %rd9;", out)
    assert out.view(np.int64) == 2**32 - 7
