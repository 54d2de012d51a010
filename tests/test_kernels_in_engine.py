"""The whole engine through the kernels gives what it gives through the plain path."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from tempo_fast import ModelError, OptionError, TempoFastPipeline
from tempo_fast.compression import allocate
from tempo_fast.compression.compressor import Compressor
from tempo_fast.compression.strategies import Strategy
from tempo_fast.engine import ops
from tempo_fast.options import OpenOptions
from tempo_fast.video.resize import FrameLimits, plan_resize, resize_frame
from tempo_fast.video.segments import SegmentReader
from tempo_fast.video.source import open_source
from tempo_kernels.allocate import MAX_SEGMENTS
from tempo_kernels.launch import HAS_TRITON, INTERPRETED
from tempo_kernels.relevance import relevance

from .kernels.tolerances import limit

# The fixtures are on the CPU, where compiled kernels don't run.
CAN_RUN = HAS_TRITON and INTERPRETED
needs_kernels = pytest.mark.skipif(not CAN_RUN, reason="needs TRITON_INTERPRET=1")


# The kernels of each part.
DECODING = {"rms_norm", "rope_tables", "qk_norm_rope", "swiglu"}
ENCODING = {"rows", "columns", "grid_table", "layer_norm", "vision_rope", "gelu_tanh"}
ENCODING |= {"deepstack_add"}
ALLOCATING = {"relevance", "allocate", "assemble"}
FUSED = {"relevance_allocate", "assemble"}


@pytest.fixture
def kernels():
    before = ops.set_kernels("triton")
    yield
    ops.set_kernels(before)


@pytest.fixture
def scoring_kernels(monkeypatch):
    """Kernels for what scores and allocates; to interpret the rest takes seconds a question."""

    def through_kernels(function):
        def run(*arguments, **keywords):
            before = ops.set_kernels("triton")
            try:
                return function(*arguments, **keywords)
            finally:
                ops.set_kernels(before)

        return run

    monkeypatch.setattr(Compressor, "_scored", through_kernels(Compressor._scored))
    monkeypatch.setattr(Strategy, "allocate", through_kernels(Strategy.allocate))


@pytest.fixture
def launched(monkeypatch):
    """The names of the kernels that were launched, in the interpreter."""
    from triton.runtime import interpreter

    names, launch = set(), interpreter.GridExecutor.__call__

    def recorded(self, *args, **kwargs):
        names.add(self.fn.__name__.strip("_").removesuffix("_kernel"))
        return launch(self, *args, **kwargs)

    monkeypatch.setattr(interpreter.GridExecutor, "__call__", recorded)
    return names


@needs_kernels
def test_a_golden_case_through_the_kernels(pipe, golden_case, kernels, launched):
    case = golden_case("image")
    pipe.checkpoint.model.vision._tables.clear()
    with pipe.open(case.video) as video:
        compressed = video.compress(case.query)
        answer = video.ask(case.query, max_new_tokens=2)
    expected = case.tensors["inputs_embeds"]
    assert (compressed.inputs_embeds - expected).abs().max() < limit(
        "engine: embeddings"
    ) * expected.abs().max()
    assert (compressed.relevance - case.tensors["relevance"]).abs().max() < limit(
        "engine: relevance"
    )
    assert answer.token_ids == case.tensors["generated_ids"][:2].tolist()
    # An image is resized on the host, and nothing is shared out; `greedy` is two kernels.
    encoding = ENCODING - {"rows", "columns"} | {"to_patches"}
    allocating = ALLOCATING - {"allocate"}
    assert launched == {*DECODING, *encoding, *allocating, "largest", "greedy"}


@needs_kernels
@pytest.mark.parametrize("fused", [False, True], ids=["separate", "fused"])
def test_a_question_about_a_golden_video_through_the_kernels(
    pipe, golden_case, launched, monkeypatch, fused
):
    """Three segments share less than the least that each should have, and each has a time tag."""
    case = golden_case("starved_budget")
    monkeypatch.setattr(pipe._compressors["video"], "fused_allocation", fused)
    asking = {name: value for name, value in case.asking.items() if name != "max_new_tokens"}
    with pipe.open(case.video, **case.opening) as video:
        video.compress(case.query, **asking)  # what is made once a video would take minutes
        assert not launched
        before = ops.set_kernels("triton")
        try:
            compressed = video.compress(case.query, **asking)
        finally:
            ops.set_kernels(before)
    assert launched == {*DECODING, *(FUSED if fused else ALLOCATING)}
    kept = case.tensors["allocations"].tolist()
    assert compressed.allocations.tolist() == kept and sum(kept) == 9
    assert (compressed.relevance - case.tensors["relevance"]).abs().max() < limit(
        "engine: relevance"
    )
    expected = case.tensors["inputs_embeds"]
    assert (compressed.inputs_embeds - expected).abs().max() < limit(
        "engine: embeddings"
    ) * expected.abs().max()


@needs_kernels
@pytest.mark.parametrize("name", ["scaled_budget", "window4"])
def test_golden_relevance_by_the_kernel(pipe, golden_case, monkeypatch, name):
    """Of five segments in one launch, each by its own last token, from the plain path's states."""
    scored = []

    def by_kernel(*arguments):
        scored.append(relevance(*arguments))
        return scored[-1]

    monkeypatch.setattr(ops, "relevance", by_kernel)
    case = golden_case(name)
    with pipe.open(case.video, **case.opening) as video:
        video.compress(case.query, **case.asking)
    (actual,) = scored
    assert len(actual) == 5
    assert (actual - case.tensors["relevance"]).abs().max() < limit("engine: relevance")


@needs_kernels
def test_a_video_through_the_kernels(pipe, clip_frames, launched, monkeypatch):
    """Resizing on the device, 3-D positions, time tags, deepstack, allocation and sampling too."""
    ask = {"max_new_tokens": 2, "visual_token_budget": 12, "temperature": 0.8, "seed": 1}
    options = {"fps": 2.0, "frame_windows": 2, **ask}
    # Frames of the published size, 128 tokens, would be interpreted for a minute.
    small = replace(pipe.config, frames=FrameLimits(min_pixels=128**2, max_pixels=128**2))
    monkeypatch.setattr(pipe, "config", small)
    frames = clip_frames[:4]
    assert [step.by_pillow for step in plan_resize(*frames.shape[1:3], small.frames)] == [1, 0]
    plain = pipe(frames, "What moves?", **options)
    assert not launched
    pipe.checkpoint.model.vision._tables.clear()
    before = ops.set_kernels("triton")
    try:
        fused = pipe(frames, "What moves?", **options)
    finally:
        ops.set_kernels(before)
    # `sample` is three kernels, resizing two, of which the last cuts into patches.
    assert launched == {*DECODING, *ENCODING, *ALLOCATING, "blocks", "largest", "draw"}
    assert fused.relevance == pytest.approx(plain.relevance, abs=limit("engine: relevance"))
    assert fused.allocations == plain.allocations
    assert fused.token_ids == plain.token_ids


@needs_kernels
@pytest.mark.parametrize(
    "asking",
    [
        {"lazy": False},
        {"lazy": False, "pruning": "topk", "prune_tokens": 2},
        *({"strategy": name, "lazy": True} for name in ("tail", "random", "tome", "uniform")),
    ],
    ids=lambda asking: "-".join(map(str, asking.values())),
)
def test_strategies_through_the_kernels(pipe, clip_frames, asking, launched):
    """Query and memory tokens in one pass: what the kernels get are parts of its result.

    Where the shares are equal, or whole segments are left out, nothing is allocated.
    """
    by_score = "pruning" not in asking and asking.get("strategy") != "uniform"
    asking = {"visual_token_budget": 12, **asking}
    with pipe.open(clip_frames[:6], fps=2.0, frame_windows=2) as video:
        plain = video.compress("What moves?", **asking)
        before = ops.set_kernels("triton")
        try:
            fused = video.compress("What moves?", **asking)
        finally:
            ops.set_kernels(before)
    selected = {"select"} if not asking["lazy"] or asking.get("strategy") == "tail" else set()
    allocating = ALLOCATING if by_score else ALLOCATING - {"allocate"}
    assert launched == {*DECODING, *allocating, *selected}
    assert torch.equal(fused.allocations, plain.allocations)
    assert (fused.relevance - plain.relevance).abs().max() < limit("engine: relevance")
    expected = plain.inputs_embeds
    assert (fused.inputs_embeds - expected).abs().max() < limit(
        "engine: embeddings"
    ) * expected.abs().max()


@needs_kernels
@pytest.mark.parametrize(
    "asking",
    [
        *({"lazy": lazy, "strategy": "head"} for lazy in (True, False)),
        *({"lazy": True, "strategy": name} for name in ("tail", "shuffled", "uniform")),
        {"lazy": True, "pruning": "topk"},
    ],
    ids=lambda asking: "-".join(map(str, asking.values())),
)
def test_allocation_in_the_launch_that_scores_changes_nothing(
    pipe, clip_frames, scoring_kernels, launched, monkeypatch, asking
):
    """Every bit is that of two launches; what isn't shared by score is scored alone."""
    by_score = "pruning" not in asking and asking["strategy"] != "uniform"
    asking = {"visual_token_budget": 12, **asking}
    with pipe.open(clip_frames[:6], fps=2.0, frame_windows=2) as video:
        separate = video.compress("What moves?", **asking)
        assert launched == ({"relevance", "allocate"} if by_score else {"relevance"})
        monkeypatch.setattr(pipe._compressors["video"], "fused_allocation", True)
        for _ in range(2):
            launched.clear()
            fused = video.compress("What moves?", **asking)
            assert launched == ({"relevance_allocate"} if by_score else {"relevance"})
            for name in ("relevance", "allocations", "tokens", "inputs_embeds"):
                assert torch.equal(getattr(fused, name), getattr(separate, name)), name
            assert not by_score or video._encoded.done.item() == 0


@needs_kernels
def test_a_score_that_is_no_number_is_told_of_after_one_launch_too(
    pipe, clip_frames, scoring_kernels, monkeypatch
):
    fused = ops.relevance_allocate

    def spoilt(hidden, *arguments, **rule):
        return fused(hidden * float("nan"), *arguments, **rule)

    monkeypatch.setattr(ops, "relevance_allocate", spoilt)
    monkeypatch.setattr(pipe._compressors["video"], "fused_allocation", True)
    with pipe.open(clip_frames[:4], fps=2.0, frame_windows=2) as video:
        with pytest.raises(ModelError, match="the relevance of segment 0 is nan"):
            video.compress("What moves?")
        monkeypatch.setattr(ops, "relevance_allocate", fused)
        assert video.compress("What moves?").allocations.sum() > 0


@needs_kernels
def test_more_segments_than_one_launch_takes_are_allocated_plainly(
    pipe, clip_frames, scoring_kernels, launched, monkeypatch
):
    monkeypatch.setattr("tempo_fast.compression.compressor.MAX_SEGMENTS", 1)
    monkeypatch.setattr(pipe._compressors["video"], "fused_allocation", True)
    with pipe.open(clip_frames[:4], fps=2.0, frame_windows=2) as video:
        video.compress("What moves?")
    assert launched == {"relevance", "allocate"}


@pytest.mark.parametrize(
    ("named", "fused"), [(None, False), ("auto", False), ("separate", False), ("fused", True)]
)
def test_the_environment_chooses_one_launch_or_two(pipe, monkeypatch, named, fused):
    monkeypatch.delenv("TEMPO_FAST_ALLOCATION", raising=False)
    if named:
        monkeypatch.setenv("TEMPO_FAST_ALLOCATION", named)
    chosen = TempoFastPipeline(pipe.checkpoint)
    assert all(each.fused_allocation is fused for each in chosen._compressors.values())


def test_another_word_for_launches_is_refused(pipe, monkeypatch):
    monkeypatch.setenv("TEMPO_FAST_ALLOCATION", "one")
    with pytest.raises(OptionError, match="ALLOCATION must be auto, fused, separate; got 'one'"):
        TempoFastPipeline(pipe.checkpoint)


@needs_kernels
def test_frames_resized_by_the_kernels_are_the_hosts(clip_frames, kernels):
    frames = clip_frames[:2]
    steps = [(s.height, s.width, s.by_pillow) for s in plan_resize(*frames.shape[1:3])]
    source = open_source(frames, OpenOptions(fps=2.0))
    with SegmentReader(source, 2, 2, resize=resize_frame) as reader:
        (resized,) = reader
    expected = ops.preprocess(resized, (), torch.float32)
    actual = ops.preprocess(torch.from_numpy(frames), steps, torch.float32)
    different = (actual - expected).abs()
    assert different.max() <= limit("engine: pixels")
    assert (different > 0).float().mean() < limit("engine: other pixels")


@needs_kernels
def test_allocation_by_the_kernel_raises_like_the_plain_one(kernels):
    assert allocate(torch.tensor([0.1, 0.9]), tokens=8, budget=10).tolist() == [4, 6]
    with pytest.raises(ModelError, match="segment 1"):
        allocate(torch.tensor([0.1, float("nan")]), tokens=8, budget=10)
    with pytest.raises(OptionError, match="2"):
        allocate(torch.tensor([0.1, 0.9]), tokens=8, budget=1)


@needs_kernels
def test_more_segments_than_the_kernels_take_go_the_plain_way(kernels):
    count = MAX_SEGMENTS + 1
    memory = torch.arange(count * 2.0).view(count, 2, 1)
    kept = torch.arange(count) % 3
    ends = torch.cat((torch.zeros(1, dtype=torch.long), kept.cumsum(0)))
    packed = ops.select(
        memory, kept, ends, torch.ones(1), 0.0, total=int(ends[-1]), take="head", normalize=False
    )
    expected = memory[torch.arange(2) < kept[:, None]]
    assert torch.equal(packed, expected)


def test_modes_are_checked(monkeypatch):
    with pytest.raises(OptionError, match="auto, triton, torch"):
        ops.set_kernels("fast")
    monkeypatch.setattr(ops, "INTERPRETED", False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(OptionError, match="no Triton kernel can run here"):
        ops.set_kernels("triton")
    assert not ops.uses_kernels(torch.device("cpu"))


def test_the_engine_needs_no_triton(golden):
    code = (
        "import sys; sys.modules['triton'] = None\n"
        "from tempo_fast import TempoFastPipeline\n"
        f"pipe = TempoFastPipeline.from_pretrained({str(golden / 'checkpoint' / 'tiny-tempo')!r})\n"
        f"answer = pipe({str(golden / 'clip.mp4')!r}, 'What?', max_new_tokens=2, max_frames=4)\n"
        "print(len(answer.token_ids))\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout) == (0, "2\n"), run.stderr
