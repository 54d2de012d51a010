"""The golden answers through compiled kernels without a GPU (`tests/test_golden.py`: with one)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tempo_fast import TempoFastPipeline
from tempo_fast.engine import ops

from .tolerances import limit

GOLDEN = Path(__file__).parents[1] / "golden"
CASES = sorted(path.stem for path in (GOLDEN / "cases").glob("*.safetensors"))
FOLDER = GOLDEN / "checkpoint" / "tiny-tempo"


@pytest.fixture
def compiled(in_numpy, monkeypatch):
    """The engine's operations are the compiled kernels, on the CPU's tensors."""
    if not in_numpy:
        pytest.skip("TEMPO_FAST_PTX runs compiled kernels on the CPU")
    monkeypatch.setattr(ops, "_mode", "triton")


@pytest.mark.gpu
@pytest.mark.parametrize("allocation", ["separate", "fused"])
@pytest.mark.parametrize("name", CASES)
def test_golden_answers(compiled, monkeypatch, golden_case, name, allocation):
    monkeypatch.setenv("TEMPO_FAST_ALLOCATION", allocation)
    case = golden_case(name)
    pipe = TempoFastPipeline.from_pretrained(FOLDER, device="cpu")
    with pipe.open(case.video, **case.opening) as video:
        compressed = video.compress(case.query, **case.asking)
        if "relevance" in case.tensors:
            error = (compressed.relevance - case.tensors["relevance"]).abs().max()
            assert error < limit("engine: relevance")
        if "allocations" in case.tensors:
            assert compressed.allocations.tolist() == case.tensors["allocations"].tolist()
        if allocation == "fused":  # what follows is the same
            return
        answer = video.ask(case.query, **case.asking)
    assert answer.token_ids == case.tensors["generated_ids"].tolist()


@pytest.mark.gpu
def test_bfloat16_stays_near_float32(compiled, monkeypatch, golden_case):
    case = golden_case("one_segment")
    everything = case.asking | {"strategy": "none"}
    found = {}
    for dtype in ("float32", "bfloat16"):
        pipe = TempoFastPipeline.from_pretrained(FOLDER, device="cpu", dtype=dtype)
        with pipe.open(case.video, **case.opening) as video:
            found[dtype] = video.compress(case.query, **everything)
            drawn = video.ask(case.query, temperature=1.0, top_p=0.9, seed=1, max_new_tokens=2)
        assert len(drawn.token_ids) == 2
    exact, rough = (found[dtype].tokens.float() for dtype in ("float32", "bfloat16"))
    assert found["bfloat16"].tokens.dtype == torch.bfloat16
    # As `test_pipeline.py` bounds it for the plain path.
    assert (rough - exact).abs().max() < 0.03 * exact.abs().max()
