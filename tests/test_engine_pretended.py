"""The engine's CUDA side on a pretended GPU: the CPU's answers, in order on every stream, and no
wait or host's number in a recording. On a real one `test_engine_cuda` asks the same."""

from __future__ import annotations

import sys
from collections import Counter
from types import SimpleNamespace

import pytest
import torch

from tempo_fast import TempoFastPipeline
from tempo_fast.compression.captured import CapturedPrefill
from tempo_fast.engine.clock import Clock
from tempo_fast.engine.kv_cache import KVCache
from tempo_fast.engine.streams import CudaLanes, LaneMaker, Turns
from tempo_fast.language_model.generation import Generation
from tempo_fast.language_model.sampling import Sampler
from tempo_fast.language_model.steps import BLOCK
from tempo_kernels.launch import HAS_TRITON, INTERPRETED

from . import fake_flash
from .pretend_cuda import CUDA, pretend_cuda
from .pretend_streams import Event, RefusedError

if not (HAS_TRITON and INTERPRETED):
    pytest.skip("needs TRITON_INTERPRET=1", allow_module_level=True)

QUESTION, OPENING = "What moves?", {"fps": 2.0, "frame_windows": 2}
ASKING = {"visual_token_budget": 24, "max_new_tokens": BLOCK + 4, "temperature": 0.8, "seed": 1}
SETTINGS = [
    pytest.param(graphs, streams, id=name)
    for graphs, streams, name in (
        (False, False, "plain"),
        (True, False, "graphs"),
        (False, True, "streams"),
        (True, True, "graphs and streams"),
    )
]


@pytest.fixture
def gpu(monkeypatch):
    with pretend_cuda(monkeypatch) as device:
        yield device


@pytest.fixture
def make(gpu, golden):
    """make(**options) → a pipeline on the GPU, a segment a chunk."""

    def make(**options) -> TempoFastPipeline:
        folder = golden / "checkpoint" / "tiny-tempo"
        pipe = TempoFastPipeline.from_pretrained(folder, device="cuda", **options)
        pipe._compressors["video"].chunk_tokens = 1
        return pipe

    return make


@pytest.fixture(scope="module")
def frames(clip_frames):
    return clip_frames[:6]


@pytest.fixture(scope="module")
def expected(pipe, frames):
    """What the CPU answers."""
    return pipe(frames, QUESTION, **OPENING, **ASKING)


def check(answer, expected) -> None:
    assert answer.token_ids == expected.token_ids
    assert answer.allocations == expected.allocations
    assert answer.relevance == pytest.approx(expected.relevance, abs=1e-5)


@pytest.mark.parametrize("graphs, streams", SETTINGS)
def test_answers_are_the_hosts(make, gpu, frames, expected, graphs, streams):
    pipe = make(graphs=graphs, streams=streams)
    for _ in range(2):  # chunks are captured when a shape comes the second time
        check(pipe(frames, QUESTION, **OPENING, **ASKING), expected)
    assert bool(gpu.replays) == graphs


@pytest.mark.parametrize("placement", ["host", "dropped"])
def test_rows_off_the_device(make, frames, expected, monkeypatch, placement):
    monkeypatch.setattr("tempo_fast.engine.memory.PLACEMENTS", (placement,))
    with make(graphs=True, streams=True).open(frames, **OPENING) as video:
        for _ in range(2):
            answer = video.ask(QUESTION, **ASKING)
            check(answer, expected)
    assert answer.memory["placement"] == placement


@pytest.mark.parametrize("full, placement", [({"device"}, "host"), ({"device", "host"}, "dropped")])
def test_rows_that_find_no_room(make, gpu, frames, expected, monkeypatch, full, placement):
    pipe, plain = make(graphs=True, streams=True), KVCache._zeros
    for _ in range(2):
        pipe.open(frames, **OPENING).close()
    assert pipe._compressors["video"].captured.shapes

    def zeros(self, capacity):
        made = plain(self, capacity)
        if len(self.lengths) > 1 and ("host" if self.pinned else "device") in full:
            error = RuntimeError if self.pinned else torch.OutOfMemoryError
            raise error("CUDA error: out of memory")
        return made

    monkeypatch.setattr(KVCache, "_zeros", zeros)
    with pipe.open(frames, **OPENING) as video:
        assert video.memory.placement == placement
        if placement == "host":
            assert all(layer.is_pinned() for layer in video._encoded.cache.keys)
        for _ in range(2):
            answer = video.ask(QUESTION, **ASKING)
            check(answer, expected)
    assert answer.memory["placement"] == placement


def test_an_image(make, golden_case):
    case = golden_case("image")
    answer = make(graphs=True, streams=True)(case.video, case.query, max_new_tokens=6)
    assert answer.token_ids == case.tensors["generated_ids"][:6].tolist()


@pytest.mark.parametrize(
    "asking",
    [
        {"lazy": False},
        {"dynamic_compress": False},
        {"pruning": "topk"},
        *({"strategy": name} for name in ("tail", "random", "shuffled", "tome")),
    ],
    ids=lambda asking: "-".join(map(str, *asking.items())),
)
def test_every_way_to_ask(make, pipe, frames, asking):
    asking = {**ASKING, "max_new_tokens": 2, **asking}
    check(
        make()(frames, QUESTION, **OPENING, **asking), pipe(frames, QUESTION, **OPENING, **asking)
    )


@pytest.fixture
def packages(gpu, monkeypatch):
    """The attention packages' stand-ins, as operations of the device."""
    for module in (fake_flash.flash_attn(), fake_flash.flash_attn_interface()):
        functions = {key: f for key, f in vars(module).items() if key.startswith("flash_")}
        wrapped = {key: gpu.operation(function) for key, function in functions.items()}
        monkeypatch.setitem(sys.modules, module.__name__, SimpleNamespace(**wrapped))
    own = gpu.operation(fake_flash.varlen_attn)
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", own)
    monkeypatch.setattr(torch.backends.cuda, "is_flash_attention_available", lambda: True)


@pytest.mark.parametrize("graphs, streams", [SETTINGS[-1]])
@pytest.mark.parametrize("backend", ["fa3", "varlen", "fa2", "sdpa"])
def test_bfloat16_by_every_backend(
    make, packages, golden, frames, monkeypatch, graphs, streams, backend
):
    folder = golden / "checkpoint" / "tiny-tempo"
    plain = TempoFastPipeline.from_pretrained(folder, device="cpu", dtype="bfloat16")
    # All tokens are kept: a relevance that rounds otherwise would move some to other segments.
    options = {**OPENING, "strategy": "none"}
    expected = plain.compress(frames, QUESTION, **options)
    monkeypatch.setenv("TEMPO_FAST_ATTENTION", backend)
    pipe = make(dtype="bfloat16", graphs=graphs, streams=streams)
    assert pipe.checkpoint.model.compressor.attention.name == backend
    for _ in range(2):
        actual = pipe.compress(frames, QUESTION, **options)
        assert (actual.relevance.cpu() - expected.relevance).abs().max() < 0.02
        mine, theirs = actual.tokens.float().cpu(), expected.tokens.float()
        assert (mine - theirs).abs().max() < 0.05 * theirs.abs().max()
    assert len(pipe(frames, QUESTION, **options, max_new_tokens=3).token_ids) == 3


CLOCK = "a stream's synchronize"  # at the end of a stage, for its seconds


@pytest.mark.parametrize(
    ("asking", "allocation"),
    [
        ({}, "tolist"),
        ({"lazy": False}, "tolist"),
        ({"strategy": "tail"}, "tolist"),
        ({"strategy": "random"}, "tolist"),
        ({"strategy": "shuffled"}, "tolist"),
        # These share out on the host, for which it reads the relevance instead of the allocation.
        ({"strategy": "uniform"}, "a copy to the host"),
        ({"strategy": "none"}, "a copy to the host"),
        ({"pruning": "topk", "prune_tokens": 2}, "a copy to the host"),
    ],
    ids=lambda asking: "-".join(map(str, asking.values())) if isinstance(asking, dict) else "",
)
@pytest.mark.parametrize("graphs", [False, True], ids=["plain", "graphs"])
def test_a_question_reads_the_device_once_before_its_prefill(
    make, gpu, frames, asking, allocation, graphs
):
    """`tome` merges by masks, and rows that were dropped are encoded again: those wait more."""
    with make(graphs=graphs).open(frames, **OPENING) as video:
        gpu.waits.clear()
        video.compress(QUESTION, visual_token_budget=24, **asking)
        assert [wait for wait in gpu.waits if wait != CLOCK] == [allocation]


@pytest.mark.parametrize("graphs", [False, True], ids=["plain", "graphs"])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_decoding_waits_once_a_block(make, gpu, frames, graphs, temperature):
    pipe = make(graphs=graphs)
    waits = {}
    with pipe.open(frames, **OPENING) as video:
        for count in (1, 2, 3, 8, 1 + 3 * BLOCK):
            gpu.waits.clear()
            answer = video.ask(QUESTION, max_new_tokens=count, temperature=temperature, seed=1)
            assert len(answer.token_ids) == count
            waits[count] = Counter(gpu.waits)
    one = waits.pop(1)
    for count, blocks in {2: 1, 3: 2, 8: 3, 1 + 3 * BLOCK: 6}.items():
        # The clock looks at the stream for each token, when there is nothing left to wait for.
        assert waits[count] - one == {"tolist": blocks, CLOCK: count - 1}


@pytest.fixture
def generate(make, gpu, monkeypatch):
    """generate(most, stop tokens) → the tokens after a prompt on the GPU, without graphs, as an
    iterator; and the steps queued, a list that grows meanwhile."""
    steps, plain = [], Generation._extend

    def extend(self, embeds):
        steps.append(len(embeds))
        return plain(self, embeds)

    model = make().checkpoint.model
    monkeypatch.setattr(Generation, "_extend", extend)

    def generate(most, stop=()):
        embeds = torch.randn(20, 96, generator=torch.Generator().manual_seed(0)).to("cuda")
        steps.clear()
        sampler = Sampler(1.0, 0.9, 3, embeds.device)
        return Generation(model, embeds, most).tokens(sampler, frozenset(stop)), steps

    return generate


@pytest.fixture(scope="module")
def whole(pipe):
    """The tokens of the same prompt on the CPU."""
    embeds = torch.randn(20, 96, generator=torch.Generator().manual_seed(0))
    sampler = Sampler(1.0, 0.9, 3, embeds.device)
    return list(Generation(pipe.checkpoint.model, embeds, 3 * BLOCK).tokens(sampler, frozenset()))


def test_plain_blocks_give_the_hosts_tokens(generate, whole):
    for most in (1, 2, BLOCK, BLOCK + 1, 3 * BLOCK):
        tokens, steps = generate(most)
        assert list(tokens) == whole[:most]
        assert steps == [20] + [1] * (most - 1)


def test_a_stop_token_within_a_plain_block_ends_the_answer(generate, whole):
    for place in (0, 1, 2, BLOCK - 1, BLOCK, BLOCK + 3):
        length = whole.index(whole[place]) + 1
        tokens, steps = generate(3 * BLOCK, {whole[place]})
        assert list(tokens) == whole[:length]
        assert length <= len(steps) < 2 * length  # the prompt's is the first token's


def test_leaving_a_plain_block_early_queues_no_more(generate, whole):
    tokens, steps = generate(3 * BLOCK)
    assert [next(tokens) for _ in range(3)] == whole[:3]
    tokens.close()
    assert steps == [20, 1, 1, 1] and next(tokens, None) is None


def test_a_lane_that_waits_for_nothing_is_found_out(make, frames, monkeypatch):
    monkeypatch.setattr(CudaLanes, "use", lambda self, mark, *tensors: None)
    with pytest.raises(RefusedError, match="without having waited"):
        make(streams=True).open(frames, **OPENING)


def test_a_lane_that_holds_nothing_is_found_out(make, frames, monkeypatch):
    def use(self, mark, *tensors):
        torch.cuda.current_stream().wait_event(mark)

    monkeypatch.setattr(CudaLanes, "use", use)
    with pytest.raises(RefusedError, match="may reuse"):
        make(streams=True).open(frames, **OPENING)


def test_no_more_chunks_are_queued_than_are_planned_for(gpu, monkeypatch):
    maker, ends, waited = LaneMaker(CUDA, streams=True), [], []
    monkeypatch.setattr(Event, "synchronize", lambda self: waited.append(self))
    with maker(Clock(CUDA)) as lanes:
        plain = lanes.mark
        monkeypatch.setattr(lanes, "mark", lambda: ends.append(plain()) or ends[-1])
        for queued in range(1, 6):
            with lanes.on("compress"):
                lanes.end_chunk()
            # The next chunk is queued beside those that nothing has waited for.
            assert waited == ends[: max(0, queued + 1 - maker.in_flight)]


def test_buffers_serve_one_stream_after_the_other(gpu):
    turns, buffer = Turns(CUDA), torch.zeros(2, device=CUDA)
    here, other = torch.cuda.current_stream(), torch.cuda.Stream()
    other.wait_stream(here)
    for stream in (here, other, here):
        with torch.cuda.stream(stream), turns:
            buffer.add_(1)


def test_captured_chunks_serve_one_stream_after_the_other(make, gpu, frames):
    pipe = make(graphs=True)
    for _ in range(2):
        pipe.open(frames, **OPENING).close()
    here, other = torch.cuda.current_stream(), torch.cuda.Stream()
    other.wait_stream(here)
    before = gpu.replays
    for stream in (here, other, here):
        with torch.cuda.stream(stream):
            pipe.open(frames, **OPENING).close()
    assert gpu.replays > before


def test_a_captured_chunk_goes_when_no_stream_uses_it(make, frames, monkeypatch):
    """Its memory is for the stream that made it, at once."""
    monkeypatch.setattr("tempo_fast.compression.captured.MOST_GRAPHS", 1)
    pipe = make(graphs=True)
    here, other = torch.cuda.current_stream(), torch.cuda.Stream()
    for stream, size in ((here, 2), (here, 2), (other, 2), (other, 6), (other, 6), (here, 2)):
        other.wait_stream(here)
        with torch.cuda.stream(stream):
            pipe.open(frames, fps=2.0, frame_windows=size).close()


def test_a_chunk_whose_buffers_are_not_filled_is_found_out(make, frames, monkeypatch):
    """A replay takes what is in the buffers, not what the host has."""
    pipe, options = make(graphs=True), {**OPENING, "strategy": "none"}
    first = pipe.compress(frames, QUESTION, **options)
    same = pipe.compress(frames, QUESTION, **options)
    monkeypatch.setattr(CapturedPrefill, "_fill", lambda *_: None)
    stale = pipe.compress(frames, QUESTION, **options)
    scale = first.tokens.abs().max()
    assert (same.tokens - first.tokens).abs().max() < 1e-4 * scale
    assert (stale.tokens - first.tokens).abs().max() > 0.01 * scale
