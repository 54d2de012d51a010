"""Every golden case, end to end in float32: what the published code printed is what comes out."""

from __future__ import annotations

import pytest
import torch

from tempo_fast import TempoFastPipeline
from tempo_fast.engine.ops import set_kernels
from tempo_fast.language_model.generation import Generation

IMAGE = -200  # in prompt_ids, the place of the visual part


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    actual = actual.cpu()
    assert actual.shape == expected.shape
    return ((actual - expected).abs().max() / expected.abs().max()).item()


@pytest.fixture(
    scope="module", params=["plain", "cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
)
def pipe(request, golden):
    """The golden checkpoint in float32: the plain path, what a CPU takes, and a GPU's kernels."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA GPU here")
    folder = golden / "checkpoint" / "tiny-tempo"
    if request.param != "plain":
        yield TempoFastPipeline.from_pretrained(folder, device=request.param)
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TEMPO_FAST_ATTENTION", "sdpa")
        patch.setenv("TEMPO_FAST_VISION_ATTENTION", "sdpa")
        before = set_kernels("torch")
        try:
            yield TempoFastPipeline.from_pretrained(folder, device="cpu")
        finally:
            set_kernels(before)


@pytest.fixture
def video(pipe, case):
    with pipe.open(case.video, **case.opening) as opened:
        yield opened


def test_prompt_ids(pipe, case, video):
    compressor, plan = video._compressor, video._encoded.plan
    query = compressor.prompt.query(case.query)
    for i, segment in enumerate(plan.segments):
        ids = compressor.prompt.system + segment.ids.tolist() + query
        mask = case.tensors["attention_mask"][i].bool()
        assert ids == case.tensors["input_ids"][i][mask].tolist()
    before, after = pipe._prompt.text(case.query)
    assert [*before, IMAGE, *after] == case.tensors["prompt_ids"].tolist()


def test_grids_and_time_tags(pipe, case, video):
    plan = video._encoded.plan
    key = "image_grid_thw" if case.settings.get("image") else "video_grid_thw"
    tokens = plan.grid[0] * plan.grid[1] // pipe.config.vision.merge**2
    patches = [int(segment.visual.sum()) // tokens for segment in plan.segments]
    assert [[count, *plan.grid] for count in patches] == case.tensors[key].tolist()
    if "timestamp_lens" in case.tensors:
        _, lengths = pipe._prompt.tags(plan.centres, len(plan.segments))
        assert lengths == case.tensors["timestamp_lens"].tolist()


def test_compression(case, video):
    compressed = video.compress(case.query, **case.asking)
    everything = video.compress(case.query, strategy="none")
    memory = case.tensors["memory_tokens"]
    assert relative_error(everything.tokens.view(memory.shape), memory) < 2e-4
    if "relevance" in case.tensors:
        expected = case.tensors["relevance"]
        assert (compressed.relevance.cpu() - expected).abs().max() < 1e-5
    if "allocations" in case.tensors:
        allocations = case.tensors["allocations"].tolist()
        assert compressed.allocations.tolist() == allocations
        kept = [memory[i, :count] for i, count in enumerate(allocations)]
        assert relative_error(compressed.tokens, torch.cat(kept)) < 2e-4
    assert relative_error(compressed.inputs_embeds, case.tensors["inputs_embeds"]) < 2e-4


def test_first_logits(pipe, case):
    embeds = case.tensors["inputs_embeds"].to(pipe.device)
    generation = Generation(pipe.checkpoint.model, embeds, 1)
    assert relative_error(generation.logits[0], case.tensors["last_logits"]) < 2e-4


def test_answer(pipe, case):
    answer = pipe(case.video, case.query, **case.opening, **case.asking)
    assert answer.token_ids == case.tensors["generated_ids"].tolist()
    assert answer.text == case.text.strip()
    assert answer.finish_reason == "length"
    assert answer.prompt_tokens == len(case.tensors["inputs_embeds"])


def test_errors_are_rounding_only(golden_case, pipe):
    """Far inside the tolerances: the rest is the order of float32 sums, not a different formula."""
    if pipe.device.type != "cpu":
        pytest.skip("a GPU's kernels resize the last step in float32 of their own order")
    case = golden_case("full_hd")
    with pipe.open(case.video, **case.opening) as video:
        compressed = video.compress(case.query, **case.asking)
    assert relative_error(compressed.inputs_embeds, case.tensors["inputs_embeds"]) < 5e-6
    assert (compressed.relevance - case.tensors["relevance"]).abs().max() < 1e-6
