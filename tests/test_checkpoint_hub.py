"""Checkpoints from a hub: only what is needed comes, once, and then works without network."""

from __future__ import annotations

import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tempo_fast.checkpoint import convert, read_router, resolve

ROOT = Path(__file__).parents[1]
GOLDEN = Path(__file__).parent / "golden" / "checkpoint"
TABLE = "model.language_model.embed_tokens.weight"
PADDING = 8 << 20  # bytes that the base holds beside its table

_fake = runpy.run_path(str(Path(__file__).with_name("fake_hub.py")))
FakeHub, commit_of = _fake["FakeHub"], _fake["commit_of"]

# Each step is (name, expression); its value or its error is reported by name.
_RUN = """
import json, sys
from tempo_fast.checkpoint import convert, read_router, resolve
from tempo_fast.errors import CheckpointError

results = {}
for name, expression in json.loads(sys.argv[1]):
    try:
        results[name] = eval(expression)
    except CheckpointError as error:
        results[name] = f"CheckpointError: {error}"
print(json.dumps(results, default=str))
"""

_ONLINE = {
    "base": "vars(resolve('org/tempo'))",
    "rows": "read_router(resolve('org/tempo')).tolist()",
    "dtype": "read_router(resolve('org/tempo')).dtype",
    "commit": f"resolve('org/tempo', revision={commit_of('org/tempo')!r}).tempo.name",
    "whole": "vars(resolve('org/whole'))",
    "whole_rows": "read_router(resolve('org/whole')).tolist()",
    "no_repository": "resolve('org/nothing')",
    "no_revision": "resolve('org/tempo', revision='never')",
    "no_base": "resolve('org/tempo', base='org/nothing')",
    "base_incomplete": "resolve('org/tempo', base='org/incomplete')",
    "no_ranges": "read_router(resolve('org/tempo', base='org/no-ranges'))",
    "damaged": "read_router(resolve('org/tempo', base='org/damaged'))",
    "local_only_rows": "[resolve('org/tempo', base='org/no-ranges'), read_router(resolve("
    "'org/tempo', base='org/no-ranges', local_files_only=True))]",
}
_OFFLINE = {
    "base": "vars(resolve('org/tempo'))",
    "rows": "read_router(resolve('org/tempo')).tolist()",
    "local_files_only": "read_router(resolve('org/tempo', local_files_only=True)).tolist()",
    "whole_rows": "read_router(resolve('org/whole')).tolist()",
    "rows_not_kept": "read_router(resolve('org/tempo', base='org/no-ranges'))",
    "not_cached": "resolve('org/other')",
}


def in_process(steps: dict[str, str], home: Path, endpoint: str, offline: bool = False) -> dict:
    """Run the steps in a fresh interpreter, since huggingface_hub reads its settings at import."""
    env = {k: v for k, v in os.environ.items() if "PROXY" not in k.upper() and k[:3] != "HF_"}
    env |= {"HF_HOME": str(home), "HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_XET": "1"}
    env |= {"HF_HUB_OFFLINE": "1" if offline else "0", "HF_HUB_DISABLE_TELEMETRY": "1"}
    run = subprocess.run(
        [sys.executable, "-c", _RUN, json.dumps(list(steps.items()))],
        cwd=ROOT, env=env, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """(hub as it was after the online run, results online, results offline, table)"""
    root = tmp_path_factory.mktemp("hub")
    repos = make_repositories(root)
    table = load_file(repos["Qwen/tiny-qwen3-vl"] / "model-00002-of-00002.safetensors")[TABLE]
    steps = _ONLINE | {"convert": f"convert('org/tempo', {str(root / 'made')!r})"}
    with FakeHub(repos, without_ranges=frozenset({"org/no-ranges"})) as hub:
        online = in_process(steps, root / "home", hub.url)
        url = hub.url
    return hub, online, in_process(_OFFLINE, root / "home", url, offline=True), table


def make_repositories(root: Path) -> dict[str, Path]:
    tempo = shutil.copytree(GOLDEN / "tiny-tempo", root / "tempo")
    base = shutil.copytree(GOLDEN / "tiny-qwen3-vl", root / "base")
    for extra in ("README.md", "pytorch_model.bin", "checkpoint-10/model.safetensors"):
        for folder in (tempo, base):
            (folder / extra).parent.mkdir(exist_ok=True)
            (folder / extra).write_bytes(b"nobody needs this")
    table = load_file(base / "model.safetensors")[TABLE].bfloat16()
    (base / "model.safetensors").unlink()
    pad = {"model.visual.pad": torch.zeros(PADDING // 2, dtype=torch.bfloat16)}
    before = {"model.a": torch.zeros(1000, dtype=torch.bfloat16)}
    save_file(pad, base / "model-00001-of-00002.safetensors")
    save_file({**before, **pad, TABLE: table}, base / "model-00002-of-00002.safetensors")
    places = {TABLE: "model-00002-of-00002.safetensors", "x": "model-00001-of-00002.safetensors"}
    (base / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    damaged = shutil.copytree(base, root / "damaged")
    (damaged / places[TABLE]).write_bytes(b"version https://git-lfs.github.com/spec/v1\n" * 9)
    incomplete = shutil.copytree(base, root / "incomplete")
    (incomplete / "tokenizer.json").unlink()
    (incomplete / "vocab.json").unlink()
    whole = convert(tempo, root / "whole", base=base)
    return {
        "org/tempo": tempo,
        "Qwen/tiny-qwen3-vl": base,
        "org/whole": whole,
        "org/no-ranges": base,
        "org/incomplete": incomplete,
        "org/damaged": damaged,
    }


def test_files_come_from_the_hub(runs):
    _, online, _, _ = runs
    found = online["base"]
    assert found["base_repo"] == ["Qwen/tiny-qwen3-vl", commit_of("Qwen/tiny-qwen3-vl")]
    assert Path(found["tempo"]).name == commit_of("org/tempo") == online["commit"]
    assert (Path(found["tempo"]) / "model.safetensors").is_file()
    assert len(found["weights"]) == 1


def test_only_needed_files_are_fetched(runs):
    hub, _, _, _ = runs
    tempo, base = (
        {path.name for path in (GOLDEN / name).iterdir()}
        for name in ("tiny-tempo", "tiny-qwen3-vl")
    )
    assert hub.files("org/tempo").keys() == tempo
    weights = "model-00002-of-00002.safetensors"
    settings = base - {"model.safetensors", "generation_config.json"}
    assert hub.files("Qwen/tiny-qwen3-vl").keys() == settings | {
        "model.safetensors.index.json",
        weights,
    }


def test_files_are_fetched_once(runs):
    hub, _, _, _ = runs
    sent = [(path, size) for repo, path, size in hub.served if repo == "org/tempo"]
    assert len(sent) == len({path for path, _ in sent})


def test_of_the_base_only_the_header_and_two_rows_are_read(runs):
    hub, online, _, table = runs
    assert online["rows"] == table[[279, 269]].tolist()
    assert online["dtype"] == "torch.bfloat16"
    rows = 2 * table.shape[1] * 2
    sent = hub.files("Qwen/tiny-qwen3-vl")["model-00002-of-00002.safetensors"]
    assert rows < sent < rows + 1000 < PADDING / 1000


def test_self_contained_repository_needs_no_base(runs):
    _, online, _, table = runs
    found = online["whole"]
    assert found["base"] == str(Path(found["tempo"]) / "base")
    assert found["base_repo"] is None
    assert online["whole_rows"] == table[[279, 269]].tolist()


def test_convert_from_the_hub(runs):
    _, online, _, table = runs
    files = resolve(online["convert"])
    assert torch.equal(read_router(files), table[[279, 269]])
    assert not any(path.is_symlink() for path in files.tempo.rglob("*"))


def test_what_was_fetched_works_without_network(runs):
    _, online, offline, _ = runs
    assert offline["base"] == online["base"]
    assert offline["rows"] == offline["local_files_only"] == online["rows"]
    assert offline["whole_rows"] == online["whole_rows"]


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ("no_repository", "there is no folder 'org/nothing' and no such repository"),
        ("no_base", "there is no folder 'org/nothing' and no such repository"),
        ("no_revision", "org/tempo has no revision 'never'"),
        ("base_incomplete", "has no tokenizer"),
        ("no_ranges", "does not serve parts of files: run `hf download org/no-ranges` once"),
        ("damaged", "is no safetensors file"),
        ("local_only_rows", "load the checkpoint once without local_files_only"),
    ],
)
def test_failures_say_what_to_do(runs, step, message):
    result = runs[1][step]
    assert result.startswith("CheckpointError: ") and message in result


def test_failures_without_network_say_what_to_do(runs):
    _, _, offline, _ = runs
    assert "network use is off" in offline["rows_not_kept"]
    assert "Give a local folder, or fetch it once with network" in offline["not_cached"]


def test_weights_already_in_the_cache_are_read_there(runs, tmp_path):
    """With the base's own weights in its snapshot, its rows need no request at all."""
    _, online, _, table = runs
    found = online["base"]
    cached = Path(found["base"]) / "model-00002-of-00002.safetensors"
    save_file({TABLE: table}, cached)
    try:
        code = {"rows": "read_router(resolve('org/tempo')).tolist()"}
        home = Path(found["base"]).parents[3]
        shutil.rmtree(home / "assets")
        result = in_process(code, home, "http://127.0.0.1:9", offline=True)
    finally:
        cached.unlink()
    assert result["rows"] == table[[279, 269]].tolist()
