"""What is compiled ahead of time is what is launched, at the widths of Tempo-6B."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tempo_fast import TempoFastPipeline
from tempo_fast.checkpoint.config import read_config
from tempo_fast.checkpoint.load import Checkpoint, ImageLimits
from tempo_fast.compression.allocation import Allocation
from tempo_fast.engine import ops
from tempo_fast.language_model.steps import BLOCK
from tempo_fast.models.tempo import TempoModel
from tempo_fast.tokenizer import PromptTokenizer
from tempo_kernels.launch import Variant

from ..pretend_cuda import pretend_cuda
from .launches import TRITON_DEFAULTS, Launch, all_variants, differences, fitting, record

ROOT = Path(__file__).parents[2]


@pytest.fixture
def launches(monkeypatch) -> list[Launch]:
    monkeypatch.syspath_prepend(str(ROOT))  # the benchmarks are installed nowhere
    return record(monkeypatch)


def test_every_launch_of_the_benchmarks_is_a_variant(device, launches, check_indices):
    check_indices("never")  # what isn't computed here are indices of anything
    from benchmarks.kernel_cases import CASES

    variants = all_variants()
    launched_operations = set()
    for case in CASES:
        launches.clear()
        call = case.call(device)
        for run in (call.kernel, *call.others.values()):
            before = len(launches)
            run(*call.arguments, **call.keywords)
            assert len(launches) > before, f"{case.op} launched nothing"
        for launch in launches:
            found, unlike = fitting(launch, variants)
            assert found, f"{case.op}: {launch.name} launched as {unlike}"
            launched_operations |= {op for op, v in variants if v.kernel is launch.kernel}
    assert launched_operations == {op for op, _ in variants}, "an operation has no benchmark"


def and_plainly(operation: Callable) -> Callable:
    """An operation of the engine whose launches are recorded: its results are the reference's."""
    kernel = operation.__wrapped__
    plain = getattr(sys.modules[kernel.__module__], f"{kernel.__name__}_ref")

    def run(*arguments, **keywords):
        operation(*arguments, **keywords)
        return plain(*arguments, **keywords)

    return run


def make_pipeline(dtype: torch.dtype, device: str, **settings: bool) -> TempoFastPipeline:
    """Tempo-6B's widths in one or two layers; all weights are zero."""
    from benchmarks import sizes

    full = sizes.FULL
    shape = replace(
        full,
        vision={**full.vision, "depth": 1, "deepstack_visual_indexes": [0]},
        compressor={**full.compressor, "num_hidden_layers": 2},
        language_model={**full.language_model, "num_hidden_layers": 1},
        memory_tokens=8,
    )
    tokenizer = sizes.make_tokenizer()
    config = read_config(*sizes.configs(shape, tokenizer))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "empty", torch.zeros)  # whose memory is only taken where it is read
        model = TempoModel(config, device=torch.device(device), dtype=dtype)
    return TempoFastPipeline(
        Checkpoint(
            config=config,
            model=model,
            tokenizer=PromptTokenizer(tokenizer),
            base_tokenizer=PromptTokenizer(tokenizer),
            image_limits=ImageLimits(65536, 16777216),
            stop_tokens=frozenset(),
        ),
        **settings,
    )


# Every way to ask that launches something of its own.
WAYS = [
    {"temperature": 0.7, "top_p": 0.8},
    {"temperature": 0.7, "top_p": 1.0},
    {"lazy": False},
    {"lazy": False, "pruning": "topk"},
    *({"strategy": name} for name in ("tail", "uniform", "tome")),
]


@pytest.fixture
def recorded(interpreted, launches, monkeypatch) -> list[Launch]:
    """What the engine launches, which goes on with the references' results."""
    if not interpreted:
        pytest.skip("on a GPU the engine takes the stand-in's results for its own")
    before = ops.set_kernels("triton")
    for name, operation in vars(ops).items():
        if hasattr(operation, "__wrapped__") and operation.__module__.startswith("tempo_kernels."):
            monkeypatch.setattr(ops, name, and_plainly(operation))
    # What a product with zeros is.
    monkeypatch.setattr(ops, "linear", lambda x, w, b=None: x.new_zeros(*x.shape[:-1], len(w)))
    yield launches
    ops.set_kernels(before)


def assert_compiled(launches: list[Launch]) -> set:
    """The kernels that were launched, each as one of the variants."""
    variants = all_variants()
    for launch in launches:
        found, unlike = fitting(launch, variants)
        assert found, f"{launch.name} launched as {unlike}"
    return {launch.kernel for launch in launches}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_every_launch_of_the_engine_is_a_variant(recorded, dtype):
    pipe = make_pipeline(dtype, "cpu")
    ask = {"max_new_tokens": 1, "visual_token_budget": 12}
    make = torch.Generator().manual_seed(0)
    by_pillow, by_float = (
        torch.randint(256, (4, *size, 3), generator=make, dtype=torch.uint8).numpy()
        for size in ((270, 480), (100, 240))
    )
    with pipe.open(by_pillow, fps=2.0, frame_windows=2) as video:
        video.ask("What moves?", **ask | {"max_new_tokens": 2})
        for way in WAYS:
            video.ask("What moves?", **ask, **way)
        pipe._compressors["video"].fused_allocation = True
        video.ask("What moves?", **ask)
    pipe(by_float, "What moves?", **ask, fps=2.0)
    pipe(by_float[0], "What is it?", **ask)
    with torch.inference_mode():  # the prompt of a video of many segments
        allocation, centres = Allocation.of([1] * 131), [float(i) for i in range(131)]
        tokens = torch.zeros(131, 2048, dtype=dtype)
        pipe._prompt.assemble("What moves?", tokens, allocation, centres, 16384)
    launched = assert_compiled(recorded)
    compiled = {variant.kernel for _, variant in all_variants()}
    assert launched == compiled, "what no engine launches is compiled"


def test_every_launch_in_graphs_and_streams_is_a_variant(recorded, monkeypatch):
    """On a pretended GPU: what is captured has tensors of its own."""
    with pretend_cuda(monkeypatch, interpret=True) as gpu:
        pipe = make_pipeline(torch.bfloat16, "cuda", graphs=True, streams=True)
        pipe._compressors["video"].chunk_tokens = 1  # a segment a chunk: the second is captured
        frames = torch.zeros(6, 270, 480, 3, dtype=torch.uint8).numpy()
        ask = {"visual_token_budget": 12, "max_new_tokens": BLOCK + 2}
        with pipe.open(frames, fps=2.0, frame_windows=2) as video:
            video.ask("What moves?", **ask)
            pipe._compressors["video"].fused_allocation = True
            video.ask("What moves?", **ask, temperature=0.7)
        assert gpu.replays
    names = {kernel.fn.__name__ for kernel in assert_compiled(recorded)}
    assert names >= {"_relevance_kernel", "_greedy_kernel", "_draw_kernel", "_qk_norm_rope_kernel"}
    assert "_relevance_allocate_kernel" in names


def test_a_launch_that_is_no_variant_is_noticed():
    variant = Variant("bf16", None, {"x": "*bf16", "rows": "i32"}, {"D": 64}, ("x",), num_warps=4)
    x = torch.zeros(32, dtype=torch.bfloat16)
    right = {"x": x, "rows": 3, "D": 64}
    assert differences(variant, right, TRITON_DEFAULTS) == []
    assert differences(variant, right | {"D": 128}, TRITON_DEFAULTS) == ["D is 128, not 64"]
    assert differences(variant, right, TRITON_DEFAULTS | {"num_warps": 8})
    assert differences(variant, right | {"x": x.float()}, TRITON_DEFAULTS)
    shifted = differences(variant, right | {"x": x[1:]}, TRITON_DEFAULTS)
    assert shifted == ["x is no multiple of 16"]
