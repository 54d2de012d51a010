"""The benchmarks' baseline: an honest opponent gives what the published code gave."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
CASES = sorted(path.stem for path in (ROOT / "tests" / "golden" / "cases").glob("*.safetensors"))
VIDEOS = [name for name in CASES if name != "image"]


@pytest.fixture(scope="module")
def package():
    """benchmarks/baseline, which is installed nowhere."""
    name = "tempo_baseline"
    place = ROOT / "benchmarks" / "baseline" / "__init__.py"
    spec = importlib.util.spec_from_file_location(name, place)
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    for loaded in [key for key in sys.modules if key.partition(".")[0] == name]:
        del sys.modules[loaded]


@pytest.fixture(scope="module")
def baseline(package, golden):
    return package.Baseline.from_folder(golden / "checkpoint" / "tiny-tempo")


def ask(baseline, case):
    opening = dict(case.opening)
    return baseline.answer(case.video, opening.pop("fps"), case.query, **opening, **case.asking)


@pytest.mark.parametrize("name", VIDEOS)
def test_answer(baseline, golden_case, name):
    case = golden_case(name)
    answer = ask(baseline, case)
    expected = case.tensors
    assert answer.token_ids == expected["generated_ids"].tolist()
    if "allocations" in expected:
        assert answer.allocations == expected["allocations"].tolist()
        assert (answer.relevance - expected["relevance"]).abs().max() < 1e-5
    embeds = expected["inputs_embeds"]
    assert answer.inputs_embeds.shape == embeds.shape
    assert (answer.inputs_embeds - embeds).abs().max() < 2e-4 * embeds.abs().max()
    spent = {stage for stage, seconds in answer.timings.items() if seconds}
    assert spent == {"resize", "vision", "compress", "allocate", "prefill", "generate"}


@pytest.mark.parametrize("name", ["full_hd", "odd_tail_portrait", "window4"])
def test_batch(package, baseline, golden_case, name):
    case = golden_case(name)
    fps, window = case.opening["fps"], case.opening["frame_windows"]
    batch = package.prepare(baseline.base_tokenizer, case.video, fps, case.query, window)
    expected = case.tensors
    for part in ("input_ids", "attention_mask"):
        assert torch.equal(getattr(batch, part), expected[part])
    assert torch.equal(batch.grids, expected["video_grid_thw"])
    assert list(batch.pixels.shape) == expected["pixel_shape"].tolist()
    values = batch.pixels.flatten()[expected["pixel_index"].long()]
    assert (values - expected["pixel_value"]).abs().max() < 1e-6


def test_around_tensors_that_exist(package, baseline, golden, golden_case, pipe):
    """The engine's own tensors, such as random ones of full size on a GPU, serve both."""
    model = pipe.checkpoint.model
    networks = package.build_networks(
        json.loads((golden / "checkpoint" / "tiny-tempo" / "config.json").read_text()),
        json.loads((golden / "checkpoint" / "tiny-qwen3-vl" / "config.json").read_text()),
        model.checkpoint_targets(),
        model.yes_minus_no,
    )
    query = networks.language_model.model.layers[1].self_attn.q_proj.weight
    assert query.data_ptr() == model.language_model.layers[1].self_attn.qkv_proj.weight.data_ptr()
    shared = package.Baseline(
        networks, baseline.tokenizer, baseline.base_tokenizer, baseline.stop_tokens
    )
    case = golden_case("one_segment")
    assert ask(shared, case).token_ids == case.tensors["generated_ids"].tolist()
