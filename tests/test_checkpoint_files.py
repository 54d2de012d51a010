"""Where a checkpoint's files are found on disk, and what is said when they aren't all there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from tempo_fast.checkpoint import resolve
from tempo_fast.checkpoint.storage import INDEX
from tempo_fast.errors import CheckpointError, OptionError

GOLDEN = Path(__file__).parent / "golden" / "checkpoint"
TEMPO, BASE = "tiny-tempo", "tiny-qwen3-vl"


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    """A folder with a private copy of both checkpoints."""
    for name in (TEMPO, BASE):
        shutil.copytree(GOLDEN / name, tmp_path / name)
    return tmp_path


def change(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_base_beside_model(pair):
    files = resolve(pair / TEMPO)
    assert files.tempo == pair / TEMPO
    assert files.base == pair / BASE
    assert files.base_repo is None
    assert files.weights == [pair / TEMPO / "model.safetensors"]


def test_base_beside_model_with_its_owner(pair):
    (pair / "Qwen").mkdir()
    (pair / BASE).rename(pair / "Qwen" / BASE)
    assert resolve(pair / TEMPO).base == pair / "Qwen" / BASE


def test_base_given(pair):
    (pair / BASE).rename(pair / "elsewhere")
    assert resolve(str(pair / TEMPO), base=str(pair / "elsewhere")).base == pair / "elsewhere"


def test_relative_folders(pair, monkeypatch):
    monkeypatch.chdir(pair)
    assert resolve(TEMPO).base == pair / BASE
    monkeypatch.chdir(pair / TEMPO)
    assert resolve(".").base == pair / BASE


def test_base_named_by_a_path_of_another_machine(pair):
    name = f"/nowhere/at/all/{BASE}"
    change(pair / TEMPO / "config.json", mm_vision_tower_aux_list=[name])
    assert resolve(pair / TEMPO).base == pair / BASE
    (pair / BASE).rename(pair / "elsewhere")
    with pytest.raises(CheckpointError, match="there is no folder /nowhere"):
        resolve(pair / TEMPO)


def test_base_inside_comes_first(pair):
    shutil.copytree(pair / BASE, pair / TEMPO / "base")
    assert resolve(pair / TEMPO).base == pair / TEMPO / "base"


def test_sharded_weights(pair):
    names = shard(pair / TEMPO)
    assert [path.name for path in resolve(pair / TEMPO).weights] == names


def shard(folder: Path) -> list[str]:
    single = folder / "model.safetensors"
    weights = load_file(single)
    single.unlink()
    names = [f"model-{i:05}-of-00003.safetensors" for i in (1, 2, 3)]
    place = {name: names[i % 3] for i, name in enumerate(sorted(weights))}
    for file in names:
        save_file({name: weights[name] for name in place if place[name] == file}, folder / file)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": place}))
    return names


def test_missing_shard_is_named(pair):
    names = shard(pair / TEMPO)
    (pair / TEMPO / names[1]).unlink()
    with pytest.raises(CheckpointError, match=f"lacks 1 of the 3 shards.*{names[1]}"):
        resolve(pair / TEMPO)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ("{", "can't be read"),
        ("[]", "no JSON object"),
        ("{}", "no weight_map"),
        ('{"weight_map": {"a": "../b.safetensors"}}', "no file of the same folder"),
    ],
)
def test_damaged_index(pair, index, message):
    (pair / TEMPO / INDEX).write_text(index)
    with pytest.raises(CheckpointError, match=message):
        resolve(pair / TEMPO)


@pytest.mark.parametrize("name", ["no/such/folder", "./nothing", "/nothing", Path("nothing")])
def test_no_such_folder(name):
    with pytest.raises(CheckpointError, match="there is no folder"):
        resolve(name)


def test_file_in_place_of_a_folder(pair):
    with pytest.raises(CheckpointError, match="is a file"):
        resolve(pair / TEMPO / "config.json")
    with pytest.raises(CheckpointError, match="is a file"):
        resolve(pair / TEMPO, base=pair / BASE / "config.json")


def test_name_that_is_no_hub_id():
    with pytest.raises(CheckpointError, match="neither a folder nor a hub id"):
        resolve("two words")


@pytest.mark.parametrize("folder", [TEMPO, BASE])
def test_missing_config(pair, folder):
    (pair / folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=rf"{folder} has no config.json"):
        resolve(pair / TEMPO)


@pytest.mark.parametrize("text", ["{", "[1]", "\udcff"])
def test_damaged_config(pair, text):
    (pair / TEMPO / "config.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(CheckpointError, match=r"config\.json (can't be read|holds no JSON)"):
        resolve(pair / TEMPO)


def test_model_and_base_swapped(pair):
    with pytest.raises(CheckpointError, match=r"model_type is 'qwen3_vl'.*'tempo_qwen'"):
        resolve(pair / BASE, base=pair / TEMPO)
    with pytest.raises(CheckpointError, match=r"model_type is 'tempo_qwen'.*'qwen3_vl'"):
        resolve(pair / TEMPO, base=pair / TEMPO)


@pytest.mark.parametrize("folder", [TEMPO, BASE])
def test_missing_tokenizer(pair, folder):
    (pair / folder / "tokenizer.json").unlink()
    resolve(pair / TEMPO)  # vocab.json and merges.txt are enough
    (pair / folder / "merges.txt").unlink()
    with pytest.raises(CheckpointError, match=rf"{folder} has no tokenizer"):
        resolve(pair / TEMPO)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("chat_template.jinja", "no chat template"),
        ("preprocessor_config.json", "no preprocessor_config.json"),
    ],
)
def test_missing_parts_of_the_base(pair, name, message):
    (pair / BASE / name).unlink()
    with pytest.raises(CheckpointError, match=message):
        resolve(pair / TEMPO)


def test_chat_template_in_the_tokenizer_settings(pair):
    template = (pair / BASE / "chat_template.jinja").read_text()
    (pair / BASE / "chat_template.jinja").unlink()
    change(pair / BASE / "tokenizer_config.json", chat_template=template)
    assert resolve(pair / TEMPO).base == pair / BASE


def test_missing_weights(pair):
    (pair / TEMPO / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"neither model\.safetensors nor"):
        resolve(pair / TEMPO)


@pytest.mark.parametrize("names", [None, [], [None], "Qwen/x"])
def test_config_without_a_base(pair, names):
    change(pair / TEMPO / "config.json", mm_vision_tower_aux_list=names)
    with pytest.raises(CheckpointError, match="give base="):
        resolve(pair / TEMPO)
    assert resolve(pair / TEMPO, base=pair / BASE).base == pair / BASE


def test_base_not_on_disk_and_no_network(pair, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(pair / "cache"))
    shutil.rmtree(pair / BASE)
    with pytest.raises(
        CheckpointError,
        match=r"needs its Qwen3-VL base: give its folder as base.*Qwen/tiny-qwen3-vl",
    ):
        resolve(pair / TEMPO, local_files_only=True)


def test_revision_of_a_folder(pair):
    with pytest.raises(OptionError, match="is for a hub id"):
        resolve(pair / TEMPO, revision="main")
