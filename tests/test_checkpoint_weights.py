"""Weights into their targets: sharded, cast, sliced; and every way in which they may not fit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tempo_fast.checkpoint import load_weights, stored_dtype
from tempo_fast.errors import CheckpointError

ROOT = Path(__file__).parents[1]
GOLDEN = Path(__file__).parent / "golden" / "checkpoint" / "tiny-tempo" / "model.safetensors"


def unset(weights: dict[str, torch.Tensor], dtype: torch.dtype | None = None) -> dict:
    return {
        name: torch.full_like(value, torch.nan, dtype=dtype or value.dtype)
        for name, value in weights.items()
    }


@pytest.fixture
def shards(tmp_path: Path) -> list[Path]:
    weights = load_file(GOLDEN)
    paths = [tmp_path / f"model-{i}.safetensors" for i in range(3)]
    for i, path in enumerate(paths):
        save_file({name: weights[name] for name in sorted(weights)[i::3]}, path)
    return paths


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_parameter_of_every_shard(shards, dtype):
    weights = load_file(GOLDEN)
    targets = unset(weights, dtype)
    load_weights(shards, targets)
    assert len(targets) == 172
    for name, value in weights.items():
        assert torch.equal(targets[name], value.to(dtype)), name


def test_targets_that_are_slices_of_fused_parameters(tmp_path):
    q, k = torch.randn(4, 3), torch.randn(2, 3)
    save_file({"q": q, "k": k}, tmp_path / "a.safetensors")
    fused = torch.nn.Parameter(torch.zeros(6, 3))
    load_weights([tmp_path / "a.safetensors"], {"q": fused[:4], "k": fused[4:]})
    assert torch.equal(fused.detach(), torch.cat([q, k]))
    assert fused.grad_fn is None


def save(path: Path, **tensors: torch.Tensor) -> list[Path]:
    save_file(tensors, path / "a.safetensors")
    return [path / "a.safetensors"]


def test_names_that_do_not_fit(tmp_path):
    shards = save(tmp_path, a=torch.ones(2), b=torch.ones(2), extra=torch.ones(1))
    targets = {name: torch.zeros(2) for name in ("a", "b", "x", "y")}
    with pytest.raises(CheckpointError) as error:
        load_weights(shards, targets)
    assert "2 parameters are missing: x, y." in str(error.value)
    assert "1 unknown parameters are left over: extra" in str(error.value)
    assert not targets["a"].any(), "nothing may be read before the names are checked"


def test_many_missing_names_are_counted(tmp_path):
    shards = save(tmp_path, a=torch.ones(1))
    targets = {f"layer.{i:02}": torch.zeros(1) for i in range(20)} | {"a": torch.zeros(1)}
    with pytest.raises(CheckpointError, match=r"20 parameters are missing: layer\.00, .*04, …$"):
        load_weights(shards, targets)


def test_ignored_names_may_be_left_over(tmp_path):
    shards = save(tmp_path, a=torch.ones(2), extra=torch.ones(1))
    targets = {"a": torch.zeros(2)}
    load_weights(shards, targets, ignore=frozenset({"extra", "never there"}))
    assert targets["a"].all()


def test_wrong_shape_names_both(tmp_path):
    shards = save(tmp_path, a=torch.ones(2, 3), b=torch.ones(4))
    targets = {"a": torch.zeros(3, 2), "b": torch.zeros(4)}
    with pytest.raises(CheckpointError, match=r"a is \[2, 3\] and should be \[3, 2\]"):
        load_weights(shards, targets)
    assert not targets["b"].any()


def test_name_in_two_shards(tmp_path):
    for name in ("one", "two"):
        save_file({"a": torch.ones(1)}, tmp_path / name)
    with pytest.raises(CheckpointError, match="a is in two shards, one and two"):
        load_weights([tmp_path / "one", tmp_path / "two"], {"a": torch.zeros(1)})


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_weights_that_are_no_numbers(tmp_path, value):
    broken = torch.ones(3, 5)
    broken[1, 2] = value
    shards = save(tmp_path, fine=torch.ones(2), broken=broken)
    with pytest.raises(CheckpointError, match=r"broken in a\.safetensors has NaN or infinity"):
        load_weights(shards, {"fine": torch.zeros(2), "broken": torch.zeros(3, 5)})


def test_overflow_in_the_dtype_asked_for(tmp_path):
    shards = save(tmp_path, a=torch.tensor([1e6]))
    with pytest.raises(CheckpointError, match=r"infinity as torch\.float16"):
        load_weights(shards, {"a": torch.zeros(1, dtype=torch.float16)})


def test_empty_parameter(tmp_path):
    load_weights(save(tmp_path, a=torch.ones(0, 3)), {"a": torch.zeros(0, 3)})


def test_quantized_weights_are_refused(tmp_path):
    shards = save(tmp_path, a=torch.ones(2, dtype=torch.int8))
    with pytest.raises(CheckpointError, match="a is stored as I8"):
        load_weights(shards, {"a": torch.zeros(2)})
    with pytest.raises(CheckpointError, match="not quantized"):
        stored_dtype(shards)


@pytest.mark.parametrize("content", [b"", b"version https://git-lfs.github.com/spec/v1\n", None])
def test_damaged_file(tmp_path, content):
    path = tmp_path / "a.safetensors"
    path.write_bytes(GOLDEN.read_bytes()[:-100] if content is None else content)
    for read in (stored_dtype, lambda shards: load_weights(shards, {})):
        with pytest.raises(CheckpointError, match=r"a\.safetensors can't be read as safetensors"):
            read([path])


def test_missing_file(tmp_path):
    with pytest.raises(CheckpointError, match="can't be read as safetensors"):
        stored_dtype([tmp_path / "nothing.safetensors"])


def test_stored_dtype_is_that_of_most_elements(tmp_path):
    assert stored_dtype([GOLDEN]) is torch.float32
    few = {f"norm.{i}": torch.ones(3) for i in range(5)}
    save_file({**few, "weight": torch.ones(4, 4, dtype=torch.bfloat16)}, tmp_path / "a")
    assert stored_dtype([tmp_path / "a"]) is torch.bfloat16
    with pytest.raises(CheckpointError, match="no parameters"):
        stored_dtype([])


_MEASURE = """
import sys
from pathlib import Path
import torch
from tempo_fast.checkpoint import load_weights

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) // 1024

targets = {f"layer.{i}": torch.zeros(1024, 1024) for i in range(32)}
before = peak()
load_weights([Path(sys.argv[1])], targets)
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_no_second_copy_in_host_memory(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({f"layer.{i}": torch.full((1024, 1024), i + 0.5) for i in range(32)}, path)
    run = subprocess.run(
        [sys.executable, "-c", _MEASURE, str(path)],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    path.unlink()
    assert int(run.stdout) < 40, "of 128 MiB of weights, in parameters of 4 MiB"
