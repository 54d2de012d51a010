"""The rows of `Yes` and `No`: the right ones, and nothing else read."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tempo_fast.checkpoint import read_router, resolve
from tempo_fast.checkpoint.router import save_router
from tempo_fast.checkpoint.storage import INDEX
from tempo_fast.errors import CheckpointError

ROOT = Path(__file__).parents[1]
GOLDEN = Path(__file__).parent / "golden" / "checkpoint"
TEMPO = GOLDEN / "tiny-tempo"
TABLE = "model.language_model.embed_tokens.weight"
YES, NO, VOCABULARY, WIDTH = 279, 269, 448, 64


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return shutil.copytree(GOLDEN / "tiny-qwen3-vl", tmp_path / "base")


def rows_of(base: Path) -> torch.Tensor:
    return read_router(resolve(TEMPO, base=base))


def write(base: Path, file: str = "model.safetensors", **tensors: torch.Tensor) -> None:
    save_file(tensors, base / file)


def change_config(base: Path, **values: object) -> None:
    path = base / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_rows_of_the_golden_base(base):
    table = load_file(base / "model.safetensors")[TABLE]
    rows = rows_of(base)
    assert rows.shape == (2, WIDTH) and rows.dtype == torch.float32
    assert torch.equal(rows, table[[YES, NO]])


def test_the_vocabulary_file_is_enough(base):
    wanted = rows_of(base)
    (base / "tokenizer.json").unlink()
    assert torch.equal(rows_of(base), wanted)


def test_stored_dtype_is_kept(base):
    table = torch.randn(VOCABULARY, WIDTH).bfloat16()
    write(base, **{TABLE: table})
    rows = rows_of(base)
    assert rows.dtype == torch.bfloat16 and torch.equal(rows, table[[YES, NO]])


def test_sharded_base_needs_only_the_shard_with_the_table(base):
    table = load_file(base / "model.safetensors")[TABLE]
    (base / "model.safetensors").rename(base / "model-00002-of-00002.safetensors")
    places = {TABLE: "model-00002-of-00002.safetensors", "x": "model-00001-of-00002.safetensors"}
    (base / INDEX).write_text(json.dumps({"weight_map": places}))
    assert torch.equal(rows_of(base), table[[YES, NO]])


@pytest.mark.parametrize("tied", [True, False])
def test_output_embedding_of_an_untied_base(base, tied):
    table, head = torch.randn(2, VOCABULARY, WIDTH)
    write(base, **{TABLE: table, "lm_head.weight": head})
    change_config(base, tie_word_embeddings=tied)
    assert torch.equal(rows_of(base), (table if tied else head)[[YES, NO]])


def test_tied_may_be_said_of_the_text_model_only(base):
    table, head = torch.randn(2, VOCABULARY, WIDTH)
    write(base, **{TABLE: table, "lm_head.weight": head})
    change_config(base, tie_word_embeddings=None)
    assert torch.equal(rows_of(base), table[[YES, NO]])


def test_untied_base_stored_without_a_head(base):
    wanted = rows_of(base)
    change_config(base, tie_word_embeddings=False)
    assert torch.equal(rows_of(base), wanted)


def test_kept_rows_come_first(base):
    kept = torch.randn(2, WIDTH)
    save_router(base / "router.safetensors", kept)
    assert torch.equal(rows_of(base), kept)


def test_tokenizer_without_yes(base):
    (base / "tokenizer.json").unlink()
    path = base / "vocab.json"
    vocabulary = json.loads(path.read_text())
    del vocabulary["Yes"]  # "ĠYes", with a leading space, is still there
    path.write_text(json.dumps(vocabulary))
    with pytest.raises(CheckpointError, match="no entries 'Yes' and 'No'"):
        rows_of(base)


def test_damaged_tokenizer(base):
    (base / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json can't be read"):
        rows_of(base)


def test_base_without_its_weights(base):
    (base / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="tempo-fast convert"):
        rows_of(base)


@pytest.mark.parametrize("indexed", [True, False])
def test_weights_without_a_table(base, indexed):
    write(base, other=torch.ones(1))
    if indexed:
        (base / INDEX).write_text(json.dumps({"weight_map": {"other": "model.safetensors"}}))
    with pytest.raises(CheckpointError, match=f"has no {TABLE}: it is not a Qwen3-VL base"):
        rows_of(base)


@pytest.mark.parametrize("shape", [(VOCABULARY * WIDTH,), (YES, WIDTH)])
def test_table_that_lacks_the_rows(base, shape):
    write(base, **{TABLE: torch.ones(shape)})
    with pytest.raises(CheckpointError, match=r"rows 279 and 269"):
        rows_of(base)


def test_table_of_another_width(base):
    write(base, **{TABLE: torch.ones(VOCABULARY, WIDTH + 1)})
    with pytest.raises(CheckpointError, match=r"\[2, 65\] and its config.json makes them \[2, 64"):
        rows_of(base)


def test_rows_that_are_no_numbers(base):
    table = torch.ones(VOCABULARY, WIDTH)
    table[NO, 3] = torch.nan
    write(base, **{TABLE: table})
    with pytest.raises(CheckpointError, match="NaN or infinity"):
        rows_of(base)


def test_quantized_table(base):
    write(base, **{TABLE: torch.ones(VOCABULARY, WIDTH, dtype=torch.int8)})
    with pytest.raises(CheckpointError, match="stored as I8"):
        rows_of(base)


def test_damaged_kept_rows(base):
    save_file({"other": torch.ones(1)}, base / "router.safetensors")
    with pytest.raises(CheckpointError, match="no tensor 'yes_no'"):
        rows_of(base)


_MEASURE = """
import sys
from pathlib import Path
from tempo_fast.checkpoint import read_router, resolve

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) // 1024

files = resolve(sys.argv[1], base=sys.argv[2])
before = peak()
rows = read_router(files)
print(rows.float().sum().item(), peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_table_of_three_gigabytes_is_not_read(base):
    width = 1024 * 1792
    size = VOCABULARY * width * 4  # 3.3 GB, sparse on disk
    header = {TABLE: {"dtype": "F32", "shape": [VOCABULARY, width], "data_offsets": [0, size]}}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with (base / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        start = file.tell()
        file.truncate(start + size)
        for row, value in ((YES, 3.0), (NO, 4.0)):
            file.seek(start + row * width * 4)
            file.write(torch.tensor([value]).numpy().tobytes())
    text_config = json.loads((base / "config.json").read_text())["text_config"]
    change_config(base, text_config={**text_config, "hidden_size": width})
    run = subprocess.run(
        [sys.executable, "-c", _MEASURE, str(TEMPO), str(base)],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    (base / "model.safetensors").unlink()
    total, mebibytes = run.stdout.split()
    assert float(total) == 7.0
    assert int(mebibytes) < 64, "two rows are 14 MiB, the table 3136"
