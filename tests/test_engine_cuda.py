"""Graphs, streams and memory on a GPU, against the golden cases and the plain path there."""

from __future__ import annotations

import gc
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from tempo_fast import TempoFastPipeline
from tempo_fast.engine.graphs import STREAMS, CudaGraphs, streams_of
from tempo_fast.engine.meter import CudaMeter

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here"),
]


@pytest.fixture(scope="module", params=["graphs", "streams", "both"])
def fast(request, golden):
    return TempoFastPipeline.from_pretrained(
        golden / "checkpoint" / "tiny-tempo",
        device="cuda",
        graphs=request.param != "streams",
        streams=request.param != "graphs",
    )


def test_golden_answers(fast, case):
    for _ in range(2):  # chunks are captured when a shape comes the second time
        answer = fast(case.video, case.query, **case.opening, **case.asking)
        assert answer.token_ids == case.tensors["generated_ids"].tolist()


def test_golden_answers_where_one_launch_scores_and_allocates(golden, case, monkeypatch):
    monkeypatch.setenv("TEMPO_FAST_ALLOCATION", "fused")
    pipe = TempoFastPipeline.from_pretrained(golden / "checkpoint" / "tiny-tempo", device="cuda")
    with pipe.open(case.video, **case.opening) as video:
        for _ in range(2):  # the second finds the counter as the first left it
            compressed = video.compress(case.query, **case.asking)
            if "allocations" in case.tensors:
                expected = case.tensors["allocations"].tolist()
                assert compressed.allocations.tolist() == expected
        answer = video.ask(case.query, **case.asking)
    assert answer.token_ids == case.tensors["generated_ids"].tolist()


@pytest.mark.parametrize("placement", ["host", "dropped"])
def test_rows_off_the_device(fast, golden_case, monkeypatch, placement):
    monkeypatch.setattr("tempo_fast.engine.memory.PLACEMENTS", (placement,))
    case = golden_case("full_hd")
    with fast.open(case.video, **case.opening) as video:
        for _ in range(2):
            answer = video.ask(case.query, **case.asking)
            assert answer.token_ids == case.tensors["generated_ids"].tolist()
    assert answer.memory["placement"] == placement


def test_many_small_chunks_on_streams(golden, clip_frames, monkeypatch):
    plain, fast = (
        TempoFastPipeline.from_pretrained(
            golden / "checkpoint" / "tiny-tempo", device="cuda", graphs=on, streams=on
        )
        for on in (False, True)
    )
    expected = plain.compress(clip_frames, "What moves?", fps=2.0, frame_windows=2)
    monkeypatch.setattr(fast._compressors["video"], "chunk_tokens", 1)
    for _ in range(5):
        actual = fast.compress(clip_frames, "What moves?", fps=2.0, frame_windows=2)
        mine, theirs = actual.inputs_embeds, expected.inputs_embeds
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-4 * theirs.abs().max().item())


@pytest.mark.parametrize("graphs, streams", [(True, False), (False, True), (True, True)])
def test_memory_tokens_in_bfloat16(golden, clip_frames, graphs, streams):
    """The attention that the golden cases, in float32, don't take, captured and on streams."""
    folder = golden / "checkpoint" / "tiny-tempo"
    plain = TempoFastPipeline.from_pretrained(folder, device="cuda", dtype="bfloat16")
    fast = TempoFastPipeline.from_pretrained(
        folder, device="cuda", dtype="bfloat16", graphs=graphs, streams=streams
    )
    # All tokens are kept: a relevance that rounds otherwise would move some to other segments.
    options = {"fps": 2.0, "frame_windows": 2, "strategy": "none"}
    expected = plain.compress(clip_frames, "What moves?", **options)
    for _ in range(3):
        actual = fast.compress(clip_frames, "What moves?", **options)
        assert (actual.relevance - expected.relevance).abs().max() < 0.02
        mine, theirs = actual.tokens.float(), expected.tokens.float()
        assert (mine - theirs).abs().max() < 0.05 * theirs.abs().max()
        assert len(fast(clip_frames, "What moves?", max_new_tokens=20, **options).token_ids) > 0


def test_questions_from_two_threads_are_recorded_beside_each_other(fast, golden_case):
    cases = [golden_case(name) for name in ("full_hd", "image")] * 2

    def ask(case):
        return fast(case.video, case.query, **case.opening, **case.asking).token_ids

    with ThreadPoolExecutor(2) as pool:
        for _ in range(2):
            for case, ids in zip(cases, pool.map(ask, cases), strict=True):
                assert ids == case.tensors["generated_ids"].tolist()


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU here")
def test_another_gpu_than_the_current_one(golden, golden_case):
    folder = golden / "checkpoint" / "tiny-tempo"
    for on in (False, True):
        pipe = TempoFastPipeline.from_pretrained(folder, device="cuda:1", graphs=on, streams=on)
        case = golden_case("full_hd")
        answer = pipe(case.video, case.query, **case.opening, **case.asking)
        assert answer.token_ids == case.tensors["generated_ids"].tolist()


def test_every_living_graph_has_a_stream_and_without_one_work_runs_unrecorded():
    device = torch.device("cuda", torch.cuda.current_device())
    streams, out = streams_of(device.index), torch.zeros(1, device=device)
    gc.collect()
    begun = len(streams._idle) - streams._made

    def capture():
        return CudaGraphs(device).capture(lambda: out.add_(1), out.zero_)

    for _ in range(STREAMS + 8):
        capture()
        assert len(streams._idle) - streams._made == begun
    kept = [capture() for _ in range(STREAMS + 8)]
    assert streams._made == STREAMS and not streams._idle
    for replay in kept:
        replay()
    assert out.item() == len(kept)


def test_a_graph_keeps_what_it_reads_alive():
    device = torch.device("cuda", torch.cuda.current_device())
    out = torch.zeros(1000, device=device)

    def capture():
        constant = torch.arange(1000.0, device=device)
        return CudaGraphs(device).capture(lambda: out.add_(constant), out.zero_)

    replay = capture()
    torch.full((1000,), float("nan"), device=device)  # where the constant would have been
    replay()
    assert torch.equal(out, torch.arange(1000.0, device=device))


def test_the_meter_sees_what_is_taken_and_given_back():
    meter = CudaMeter(torch.device("cuda", torch.cuda.current_device()))
    before, size = meter.free(), 1 << 28
    held = torch.empty(size, dtype=torch.uint8, device="cuda")
    assert before - meter.free() >= size // 2
    del held
    meter.release()
    assert meter.free() >= before - size // 2
