"""Compiled kernels run in NumPy: of all kernels some tests, of the allocation nearly all of them.

`make test-ptx` runs every test so.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from .launches import all_variants

FOLDER = Path(__file__).parent
# Relevance, allocation, selection, and the first two in one launch.
ALLOCATION = ("relevance", "allocate", "relevance_allocate", "select")
TAKES_LONG = (
    "allocate.py::test_golden_allocations",
    "allocate.py::test_equals_the_code_on_the_host",
    "allocate.py::test_equals_its_reference[gpu-4096",  # as 1025 it is of the largest kind
    "allocate.py::test_equals_its_reference[gpu-1025-even",
)
OTHERS = (
    "assemble.py::test_the_visual_part_is_cut_at_its_end",
    "deepstack_add.py::test_a_place_out_of_range_is_left_out",
    "gelu_tanh.py::test_in_place",
    "greedy.py::test_the_lowest_of_equals",
    "grid_table.py::test_the_tables_own_grid_is_the_table",
    "layer_norm.py::test_a_large_mean_leaves_the_variance_right",
    "patches.py::test_patches_exactly",
    "preprocess.py::test_frames_whose_planes_lie_in_memory",
    "qk_norm_rope.py::test_a_place_out_of_range_is_not_cached",
    "resize.py::test_bytes_that_start_between_words_are_read_right",
    "rms_norm.py::test_the_sum_may_replace_the_residual",
    "rope_tables.py::test_large_angles_keep_their_accuracy",
    "sample.py::test_tokens_of_no_probability_are_never_drawn",
    "swiglu.py::test_large_gates",
    "vision_rope.py::test_is_as_good_as_pytorch",
)


def test_compiled_kernels_pass_their_tests_in_numpy():
    chosen = [f"{name}.py" for name in ALLOCATION] + list(OTHERS)
    tests = [str(FOLDER / f"test_{name}") for name in chosen]
    left_out = [f"--deselect=tests/kernels/test_{name}" for name in TAKES_LONG]
    environment = {name: x for name, x in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-m", "gpu", "-p", "no:cacheprovider", *left_out, *tests],
        env=environment | {"TEMPO_FAST_PTX": "sm_90", "TEMPO_FAST_PTX_SEED": "0"},
        cwd=FOLDER.parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    launched = dict(re.findall(r"^(_\w+): (\d+) launches", done.stdout, re.M))
    kernels = {variant.kernel.fn.__name__ for _, variant in all_variants()}
    assert kernels <= launched.keys(), f"not launched: {kernels - launched.keys()}"
