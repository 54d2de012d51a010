"""What captured graphs keep is planned for, beside what runs uncaptured."""

from __future__ import annotations

import gc
import weakref
from types import SimpleNamespace

import pytest
import torch

from tempo_fast import TempoFastPipeline
from tempo_fast.compression.captured import BUCKET, MOST_GRAPHS, CapturedPrefill
from tempo_fast.engine.graphs import EagerGraphs
from tempo_fast.engine.kv_cache import KVCache
from tempo_fast.engine.memory import (
    SHARE,
    Captured,
    Work,
    block_bytes,
    captured_bytes,
    plan_memory,
    score_bytes,
)
from tempo_fast.engine.meter import HostMeter

from .peak import peak

WORK = Work(
    segments=128, visual=600, system=60, room=192, patches=2304, frame_bytes=3 << 20, prompt=8500,
    new=1024,
)  # fmt: skip
CAPTURED = Captured(chunks=4, bucket=64, held=0, steps=8)
CHUNK = 6000  # ten segments


def plan(pipe, captured, free=None, **changes):
    work = Work(**vars(WORK) | changes)
    meter = SimpleNamespace(free=lambda: free, separate=False)
    return plan_memory(
        pipe.config, work, meter, chunk_tokens=CHUNK, itemsize=2, weights=0, captured=captured
    )


def one_chunk(pipe, rows=CHUNK // WORK.visual):
    return captured_bytes(pipe.config, rows, 640, 600, system=60, itemsize=2)


def test_every_captured_chunk_counts_and_no_more_than_there_are(pipe):
    steps = plan(pipe, Captured(0, 64, 0, 8)).graphs
    assert 0 < steps < one_chunk(pipe)
    assert plan(pipe, None).graphs == 0
    assert plan(pipe, CAPTURED).graphs == 4 * one_chunk(pipe) + steps
    assert plan(pipe, CAPTURED, segments=20).graphs == 2 * one_chunk(pipe) + steps
    assert plan(pipe, CAPTURED, segments=21).graphs == 3 * one_chunk(pipe) + steps


def test_graphs_are_kept_beside_all_else(pipe):
    without, planned = plan(pipe, None), plan(pipe, CAPTURED)
    assert planned.needed == without.needed + planned.graphs
    free = int(without.needed / SHARE) + 1
    assert plan(pipe, None, free).chunk_tokens == CHUNK
    short = plan(pipe, CAPTURED, free)
    assert short.chunk_tokens < CHUNK and short.graphs < planned.graphs
    assert plan(pipe, CAPTURED, int(planned.needed / SHARE) + 1).chunk_tokens == CHUNK


def test_what_graphs_hold_already_is_not_asked_for_again(pipe):
    none, each = plan(pipe, CAPTURED).graphs, one_chunk(pipe)
    held = [plan(pipe, Captured(4, 64, count * each, 8)).graphs for count in range(6)]
    assert held == [none - min(count, 4) * each for count in range(6)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_counted_of_a_chunk_is_no_less_than_it_keeps(golden, clip_frames, dtype):
    folder = golden / "checkpoint" / "tiny-tempo"
    pipe = TempoFastPipeline.from_pretrained(folder, device="cpu", dtype=dtype)
    with pipe.open(clip_frames[:32], fps=2.0) as video:
        segments = video._encoded.plan.segments
    compressor, width = pipe._compressors["video"], pipe.config.compressor.width
    visual, count = int(segments[0].visual.sum()), len(segments)
    tokens = torch.zeros(count * visual, width, dtype=dtype)
    features = [tokens.clone() for _ in pipe.config.vision.deepstack]
    rows = compressor.decoder.new_cache(count, 2000)
    captured = CapturedPrefill(compressor.decoder, EagerGraphs())
    put = (range(count), segments, tokens, features, rows, compressor.system)
    assert not captured.prefill(*put)  # the first time
    used = peak(lambda: captured.prefill(*put))
    (shape,) = captured.shapes
    assert shape[0] == count and shape[1] % BUCKET == 0 and shape[2] == visual
    system, size = compressor.system.lengths[0], dtype.itemsize
    counted = captured_bytes(pipe.config, *shape, system=system, itemsize=size)
    if dtype == torch.float32:  # a CPU holds no scores, some of a GPU's kernels would
        total = system + shape[1]
        counted -= score_bytes(count * pipe.config.compressor.heads, total, total)
    assert used <= counted + block_bytes(system + shape[1]) and counted < 4 * used


def test_a_pipeline_plans_for_its_graphs(pipe, clip_frames, monkeypatch):
    monkeypatch.setattr(HostMeter, "free", lambda self: None)
    monkeypatch.setattr("tempo_fast.engine.crew.MOST", 1)
    graphs = TempoFastPipeline(pipe.checkpoint, graphs=True)
    graphs._compressors["video"].chunk_tokens = 10**6
    planned = []
    for _ in range(3):  # chunks are captured when a shape comes the second time
        with graphs.open(clip_frames[:32], fps=2.0) as video:
            planned.append(video.memory.graphs)
    assert planned[0] == planned[1] > planned[2] > 0
    assert len(graphs._compressors["video"].captured.shapes) <= MOST_GRAPHS
    with pipe.open(clip_frames[:32], fps=2.0) as video:
        assert video.memory.graphs == 0


QUESTION, ASK = "What moves?", {"visual_token_budget": 40}


@pytest.fixture
def holding(pipe, clip_frames, monkeypatch):
    """A compressor that holds captured chunks of a segment, and the pipeline it belongs to."""
    monkeypatch.setattr("tempo_fast.engine.crew.MOST", 1)
    graphs = TempoFastPipeline(pipe.checkpoint, graphs=True)
    compressor = graphs._compressors["video"]
    compressor.chunk_tokens = 1
    graphs.open(clip_frames, fps=2.0).close()
    assert compressor.captured.shapes
    return compressor, graphs


@pytest.fixture(scope="module")
def expected(pipe, clip_frames):
    return pipe.compress(clip_frames, QUESTION, fps=2.0, **ASK).inputs_embeds


def close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5 * expected.abs().max().item())


def test_a_chunk_that_is_given_up_is_gone_at_once(holding):
    compressor, _ = holding
    caches = [weakref.ref(chunk.cache) for chunk in compressor.captured._chunks.values()]
    gc.disable()
    try:
        assert compressor.release()
        assert not any(cache() for cache in caches)
    finally:
        gc.enable()
    assert compressor.captured.shapes == [] and not compressor.release()


@pytest.mark.parametrize(("failures", "placement"), [(1, "device"), (2, "dropped")])
def test_captured_chunks_go_before_the_rows_do(
    holding, clip_frames, expected, monkeypatch, failures, placement
):
    compressor, pipe = holding
    plain, left = KVCache.__init__, []

    def init(self, config, sequences, *args, **kwargs):
        plain(self, config, sequences, *args, **kwargs)
        if sequences == 5:
            left.append(len(compressor.captured.shapes))
            if len(left) <= failures:
                raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(KVCache, "__init__", init)
    with pipe.open(clip_frames, fps=2.0) as video:
        assert video.memory.placement == placement
        close(video.compress(QUESTION, **ASK).inputs_embeds, expected)
    assert left[0] > 0 and left[1:] == [0]


@pytest.mark.parametrize("name", ["_see", "_append"])
def test_captured_chunks_go_before_a_segment_is_too_large(
    holding, clip_frames, expected, monkeypatch, name
):
    compressor, pipe = holding
    plain = getattr(compressor, name)

    def work(*args):
        if compressor.captured.shapes:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return plain(*args)

    monkeypatch.setattr(compressor, name, work)
    with pipe.open(clip_frames, fps=2.0) as video:
        close(video.compress(QUESTION, **ASK).inputs_embeds, expected)


def test_a_segment_that_is_too_large_to_capture_runs_uncaptured(
    holding, clip_frames, expected, monkeypatch
):
    compressor, pipe = holding
    compressor.release()

    def capture(run, reset):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(compressor.captured._graphs, "capture", capture)
    with pipe.open(clip_frames, fps=2.0) as video:
        close(video.compress(QUESTION, **ASK).inputs_embeds, expected)
    assert compressor.captured.shapes == []


def test_a_failure_keeps_the_captured_chunks(holding, clip_frames, monkeypatch):
    compressor, graphs = holding
    kept = compressor.captured.shapes

    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(CapturedPrefill, "_fill", fail)
    with pytest.raises(KeyboardInterrupt):
        graphs.open(clip_frames, fps=2.0)
    assert sorted(compressor.captured.shapes) == sorted(kept)
