"""Every kernel compiles for a GPU that isn't here, within what it has, and the check can fail."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tempo_kernels import aot
from tempo_kernels.launch import INTERPRETED, Variant


def _compiled(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs Python where kernels are compiled, whatever this process does with them."""
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    return subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False
    )


# Shared memory that a block can have, in bytes.
SHARED = {"80": 163 * 1024, "90": 227 * 1024, "100": 227 * 1024}


@pytest.mark.parametrize("target", SHARED)
def test_every_variant_compiles_and_fits(target, tmp_path):
    path = tmp_path / "results" / "aot.json"
    done = _compiled("-m", "tempo_kernels.aot", "--targets", target, "--json", str(path))
    assert done.returncode == 0, done.stdout + done.stderr
    kernels = json.loads(path.read_text())["kernels"]
    expected = {
        (op, variant.name)
        for op, module in aot.operations().items()
        for variant in module.variants()
    }
    assert {(row["op"], row["variant"]) for row in kernels} == expected
    assert len(kernels) == len(expected)
    for row in kernels:
        assert row["target"] == f"sm_{target}"
        assert row["registers"] > 0
        assert row["spill_stores"] == row["spill_loads"] == 0, row
        assert row["shared"] <= SHARED[target], row
        assert f"{row['op']} " in done.stdout


def test_every_variant_lowers_where_sizes_are_one():
    done = _compiled(str(Path(__file__).with_name("sizes_of_one.py")))
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    ((op, *_, error),) = result["failed"]
    assert op == "unfit" and "'int' object has no attribute 'to'" in error
    assert result["lowered"] > 100


def test_unfit_kernels_are_refused_each_for_its_reason():
    done = _compiled(str(Path(__file__).with_name("unfit_kernels.py")))
    assert done.returncode == 0, done.stderr
    problems = {row["variant"]: row["problems"] for row in json.loads(done.stdout)}
    assert problems["fits"] == problems["narrow, allowed"] == []
    assert problems["narrow store, allowed"] == []
    assert problems["spills"] == ["spills"]
    assert problems["narrow"] == ["no 16-byte load", "no 16-byte store"]
    assert problems["narrow store"] == ["no 16-byte store"]
    assert problems["wide after all"] == ["a 16-byte load after all", "a 16-byte store after all"]
    assert "over 166912 bytes of shared memory" in problems["shared"]


def test_a_refused_kernel_is_named_in_the_table():
    numbers = ("norm", "bf16", "sm_90", 4, 32, 8, 4, 16, 0, 16, 2)
    refused = aot.Figures(*numbers, (), ("spills",))
    narrow = aot.Figures(*numbers, ("store: a number a row",), ())
    rows = [" ".join(line.split()) for line in aot.table([refused, narrow]).splitlines()[1:]]
    assert rows[0] == "norm bf16 sm_90 4 32 8 4 16 0 16 2 REFUSED: spills"
    assert rows[1] == "norm bf16 sm_90 4 32 8 4 16 0 16 2 store: a number a row"


@pytest.mark.parametrize(
    ("line", "widest"),
    [
        ("\t@%p1 ld.global.v4.b32 { %r1, %r2, %r3, %r4 }, [ %rd1 + 0 ];", (16, 0)),
        (
            "\tld.global.L1::evict_last.L2::cache_hint.v2.b32 { %r1, %r2 }, [ %rd1 + 0 ], %rd9;",
            (8, 0),
        ),
        ("\tst.global.v4.b16 [ %rd2 ], { %rs1, %rs2, %rs3, %rs4 };", (0, 8)),
        ("\tst.global.b8 [ %rd2 ], %rs1;", (0, 1)),
        ("\tst.global.v2.b64 [ %rd2 ], { %rd3, %rd4 };", (0, 16)),
        ("\tcp.async.cg.shared.global [ %r1 + 0 ], [ %rd1 + 0 ], 0x10, %r9;", (16, 0)),
        ("\tld.shared.v4.b32 {%r1, %r2, %r3, %r4}, [%r5];", (0, 0)),
    ],
)
def test_accesses_are_measured(line, widest):
    assert aot.widest_accesses(line) == widest


def test_figures_come_from_the_worst_of_the_kernels_functions():
    log = """ptxas info : Function properties for helper
    16 bytes stack frame, 8 bytes spill stores, 4 bytes spill loads
ptxas info    : Used 40 registers, used 1 barriers, 16 bytes cumulative stack size
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 12 registers"""
    figures = {"registers": 40, "stack": 16, "spill_stores": 8, "spill_loads": 4}
    assert aot.parse_ptxas(log) == figures
    with pytest.raises(ValueError, match="named no registers"):
        aot.parse_ptxas("ptxas info : 0 bytes gmem")


def test_a_variant_must_type_every_argument():
    class Kernel:
        arg_names = ("p_x", "T", "D")
        __name__ = "kernel"

    variant = Variant("bf16", Kernel(), {"p_x": "*bf16", "N": "i32"}, {"D": 64}, ("p_x",), 4)
    with pytest.raises(ValueError, match=r"\['T'\].*doesn't have \['N'\]"):
        aot._full_signature("norm", variant, variant.kernel)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--targets", "75"], "sm_75 is not one of"),
        (["--targets", "hopper"], "numbers are needed"),
        ([], "TRITON_INTERPRET is set"),
    ],
)
def test_bad_options_are_refused(capsys, arguments, message):
    if not (arguments or INTERPRETED):
        pytest.skip("the kernels are compiled in this process")
    with pytest.raises(SystemExit, match="2"):
        aot.main(arguments)
    assert message in capsys.readouterr().err
