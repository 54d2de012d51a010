"""One self-contained folder out of two checkpoints."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tempo_fast.checkpoint import convert, read_router, resolve
from tempo_fast.checkpoint.storage import INDEX
from tempo_fast.errors import CheckpointError

GOLDEN = Path(__file__).parent / "golden" / "checkpoint"
TEMPO, BASE = GOLDEN / "tiny-tempo", GOLDEN / "tiny-qwen3-vl"


def contents(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def test_round_trip_needs_no_base(tmp_path):
    source = shutil.copytree(TEMPO, tmp_path / "models" / "tiny-tempo")
    made = convert(source, tmp_path / "new" / "whole", base=BASE)
    assert made == tmp_path / "new" / "whole"
    alone = shutil.move(made, tmp_path / "alone")
    files = resolve(alone, local_files_only=True)
    assert (files.base, files.base_repo) == (alone / "base", None)
    table = load_file(BASE / "model.safetensors")["model.language_model.embed_tokens.weight"]
    assert torch.equal(read_router(files), table[[279, 269]])

    wanted = contents(TEMPO)
    inside = {f"base/{name}": content for name, content in contents(BASE).items()}
    for name in ("base/model.safetensors", "base/generation_config.json"):
        inside.pop(name)
    found = contents(alone)
    rows = found.pop("base/router.safetensors")
    assert found == {**wanted, **inside}
    assert len(rows) < 1000
    assert [path.name for path in (tmp_path / "new").iterdir()] == []


def test_again_from_a_converted_folder(tmp_path):
    first = convert(TEMPO, tmp_path / "first")
    second = convert(first, tmp_path / "second")
    assert contents(first) == contents(second)


def test_shards_are_linked_and_keep_their_index(tmp_path):
    source = shutil.copytree(TEMPO, tmp_path / "tiny-tempo")
    weights = load_file(source / "model.safetensors")
    (source / "model.safetensors").unlink()
    place = {name: f"model-{i % 2}.safetensors" for i, name in enumerate(weights)}
    for file in ("model-0.safetensors", "model-1.safetensors"):
        save_file({name: weights[name] for name in place if place[name] == file}, source / file)
    (source / INDEX).write_text(json.dumps({"weight_map": place}))
    made = convert(source, tmp_path / "made", base=BASE)
    assert [path.name for path in resolve(made).weights] == sorted(set(place.values()))
    assert (made / "model-0.safetensors").samefile(source / "model-0.safetensors")


def test_copies_where_links_are_not_possible(tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError("another file system")

    monkeypatch.setattr(os, "link", refuse)
    made = convert(TEMPO, tmp_path / "made")
    assert (made / "model.safetensors").stat().st_nlink == 1
    assert contents(made)["model.safetensors"] == contents(TEMPO)["model.safetensors"]


def test_a_linked_source_is_followed(tmp_path):
    source = shutil.copytree(TEMPO, tmp_path / "tiny-tempo")
    (source / "model.safetensors").rename(tmp_path / "blob")
    (source / "model.safetensors").symlink_to("../blob")
    made = convert(source, tmp_path / "made", base=BASE)
    assert not (made / "model.safetensors").is_symlink()
    assert (made / "model.safetensors").samefile(tmp_path / "blob")


def test_empty_destination_is_used(tmp_path):
    (tmp_path / "made").mkdir()
    assert resolve(convert(TEMPO, tmp_path / "made")).tempo == tmp_path / "made"


def test_used_destination_is_refused(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(CheckpointError, match="is not empty"):
        convert(TEMPO, tmp_path / "full")
    with pytest.raises(CheckpointError, match="is no folder"):
        convert(TEMPO, tmp_path / "file")
    with pytest.raises(CheckpointError, match="is not empty"):
        convert(TEMPO, TEMPO)
    assert contents(tmp_path) == {"full/mine.txt": b"mine", "file": b"mine"}


def test_nothing_is_left_half_written(tmp_path, monkeypatch):
    copy = shutil.copyfile

    def fail_late(source: Path, target: Path) -> None:
        if "base" in target.parts and target.name == "vocab.json":
            raise OSError("no space left on device")
        copy(source, target)

    monkeypatch.setattr(shutil, "copyfile", fail_late)
    with pytest.raises(CheckpointError, match="can't be written: no space left"):
        convert(TEMPO, tmp_path / "made")
    assert list(tmp_path.iterdir()) == []


def test_damaged_source_is_not_converted(tmp_path):
    source = shutil.copytree(TEMPO, tmp_path / "tiny-tempo")
    (source / "model.safetensors").write_bytes((TEMPO / "model.safetensors").read_bytes()[:-8])
    with pytest.raises(CheckpointError, match="can't be read as safetensors"):
        convert(source, tmp_path / "made", base=BASE)
    assert not (tmp_path / "made").exists()
