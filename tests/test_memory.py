"""The memory plan, and that what it decides and an allocation that fails don't change an answer."""

from __future__ import annotations

import math
import weakref
from dataclasses import replace

import pytest
import torch

from tempo_fast import OutOfMemoryError, TempoFastPipeline, VideoError
from tempo_fast.compression.compressor import Compressor
from tempo_fast.engine.chunks import in_chunks
from tempo_fast.engine.kv_cache import KVCache
from tempo_fast.engine.memory import (
    HOST_SHARE,
    SHARE,
    MemoryPlan,
    Work,
    block_bytes,
    cache_bytes,
    decoder_bytes,
    plan_memory,
    vision_bytes,
)
from tempo_fast.engine.meter import Meter
from tempo_fast.models.decoder import Decoder

from .peak import peak

QUESTION = "What moves?"
ASK = {"visual_token_budget": 40}


@pytest.fixture(autouse=True)
def one_chunk_after_the_other(monkeypatch):
    """So that it is known which call fails."""
    monkeypatch.setattr("tempo_fast.engine.crew.MOST", 1)


class FakeMeter(Meter):
    """A device with `free` bytes; host: bytes of the host, None if it is the host."""

    def __init__(self, free, host=None):
        self._free, self._host = free, host
        self.released = 0

    def free(self):
        return self._free

    def host_free(self):
        return self._host

    @property
    def separate(self):
        return self._host is not None

    def release(self):
        self.released += 1


@pytest.fixture
def set_meter(pipe, monkeypatch):
    def put(meter):
        monkeypatch.setattr(pipe._compressors["video"], "meter", meter)
        return meter

    return put


@pytest.fixture(scope="module")
def expected(pipe, clip_frames):
    return pipe.compress(clip_frames, QUESTION, fps=2.0, **ASK)


def close(actual, expected):
    assert torch.equal(actual.allocations, expected.allocations)
    for name in ("relevance", "tokens", "inputs_embeds"):
        mine, theirs = getattr(actual, name), getattr(expected, name)
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-5 * theirs.abs().max().item())


WORK = Work(
    segments=128, visual=600, system=60, room=192, patches=2304, frame_bytes=3 << 20, prompt=8500,
    new=1024,
)  # fmt: skip


def plan(pipe, free, host=None, **changes):
    settings = {"chunk_tokens": 8192, "itemsize": 2, "weights": 0} | changes
    return plan_memory(pipe.config, WORK, FakeMeter(free, host), **settings)


def test_less_memory_means_smaller_chunks_then_the_host_then_nothing_kept(pipe):
    everything = plan(pipe, 1 << 40, 1 << 40)
    assert (everything.placement, everything.chunk_tokens) == ("device", 8192)
    decided = []
    for free in range(everything.needed * 5 // 4, 0, -everything.needed // 200):
        found = plan(pipe, free, 1 << 40)
        decided.append((found.placement, found.chunk_tokens))
        if found.chunk_tokens >= 2 * WORK.visual:
            assert found.needed <= SHARE * free
    order = {"device": 0, "host": 1, "dropped": 2}
    assert decided == sorted(decided, key=lambda found: (order[found[0]], -found[1]))
    assert [name for name, _ in dict.fromkeys(decided)].count("device") >= 3
    assert {name for name, _ in decided} == set(order)


def test_no_host_beside_the_device_or_too_little_of_it_drops(pipe):
    short = plan(pipe, 1 << 40).segment_cache
    assert plan(pipe, short).placement == "dropped"
    assert plan(pipe, short, 1 << 40).placement == "host"
    assert plan(pipe, short, short).placement == "dropped"


def test_pinned_blocks_count_as_large_as_they_are_made(pipe):
    short, config = plan(pipe, 1 << 40).segment_cache, pipe.config.compressor
    tokens = WORK.segments * (WORK.system + WORK.visual)
    block = tokens * config.kv_heads * config.head_dim * 2  # keys or values of a layer
    made = 1 << (block - 1).bit_length()
    assert block < made
    enough = math.ceil(2 * config.layers * made / HOST_SHARE)
    assert plan(pipe, short, enough).placement == "host"
    assert plan(pipe, short, enough - 2).placement == "dropped"


def test_memory_that_nobody_knows_is_enough(pipe):
    assert plan(pipe, None).placement == "device"


def test_two_chunks_in_flight_count_twice(pipe):
    one, two = plan(pipe, None), plan(pipe, None, in_flight=2)
    assert one.activations < two.activations < 2 * one.activations


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("block", [1 << 14, 1 << 18])
def test_what_is_counted_is_no_less_than_what_is_used(block, dtype, golden, monkeypatch):
    pipe = TempoFastPipeline.from_pretrained(golden / "checkpoint" / "tiny-tempo", dtype=dtype)
    for name, value in (("BLOCK", block), ("ROWS", 64), ("FEWEST", 0), ("FEWEST_ROWS", 0)):
        monkeypatch.setattr(f"tempo_fast.engine.attention.unfused.{name}", value)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    model = pipe.checkpoint.model
    patches, size = torch.randn(4, 64, 1536, dtype=dtype), dtype.itemsize
    used = peak(lambda: model.vision(torch.cat([p.clone() for p in patches.split(1)]), (8, 8)))
    counted = vision_bytes(pipe.config.vision, 4 * 64, size) + block_bytes(64)
    assert used <= counted < 4 * used
    decoder, tokens = model.language_model, 500
    cache = decoder.new_cache(1, 500)
    hidden = torch.randn(tokens, pipe.config.language_model.width, dtype=dtype)
    run = lambda: decoder.extend(  # noqa: E731 - one call
        hidden, torch.arange(tokens), cache.pack([0], [tokens]), cache
    )
    used = peak(run)
    counted = decoder_bytes(pipe.config.language_model, tokens, size) + block_bytes(tokens)
    assert used <= counted < 4 * used
    used = peak(lambda: decoder.new_cache(3, 100))
    assert cache_bytes(pipe.config.language_model, 300, size) == used


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("width", "ffn", "heads"), [(256, 768, 2), (320, 1216, 4)], ids=["compressor", "language model"]
)
def test_what_is_counted_of_a_decoder_in_the_published_proportions(
    pipe, monkeypatch, width, ffn, heads, dtype
):
    monkeypatch.setenv("TEMPO_FAST_ATTENTION", "sdpa")
    config = replace(
        pipe.config.compressor,
        layers=2,
        width=width,
        ffn=ffn,
        heads=heads,
        kv_heads=1,
        head_dim=128,
        mrope_section=None,
    )
    tokens = 600
    with torch.inference_mode():
        decoder = Decoder(config, device=torch.device("cpu"), dtype=dtype)
        for parameter in decoder.parameters():
            parameter.normal_(std=0.02)
        cache, hidden = decoder.new_cache(1, tokens), torch.randn(tokens, width).to(dtype)
        packing = cache.pack([0], [tokens])
        used = peak(lambda: decoder.extend(hidden, torch.arange(tokens), packing, cache))
    counted = decoder_bytes(config, tokens, dtype.itemsize)
    assert used <= counted < 1.5 * used


def test_bytes_a_token_of_the_published_sizes(pipe):
    compressor = replace(pipe.config.compressor, layers=28, kv_heads=8, head_dim=128)
    assert cache_bytes(compressor, 1, 2) == 114_688


@pytest.mark.parametrize("placement", ["host", "dropped"])
def test_rows_off_the_device_give_the_same_answers(
    pipe, clip_frames, set_meter, expected, monkeypatch, placement
):
    set_meter(FakeMeter(1, 1 << 40))
    monkeypatch.setattr("tempo_fast.engine.memory.PLACEMENTS", (placement,))
    with pipe.open(clip_frames, fps=2.0) as video:
        assert video.memory.placement == placement
        assert (video.timings["vision"] > 0) == (placement == "host")
        close(video.compress(QUESTION, **ASK), expected)
        video.compress("A much longer question " * 30)
        close(video.compress(QUESTION, **ASK), expected)
        answer = video.ask(QUESTION, max_new_tokens=6, strategy="tail", **ASK)
    assert answer.memory["placement"] == placement
    assert (answer.timings["vision"] > 0) == (placement == "dropped")
    monkeypatch.undo()
    again = pipe(clip_frames, QUESTION, fps=2.0, max_new_tokens=6, strategy="tail", **ASK)
    assert again.memory["placement"] == "device"
    assert again.token_ids == answer.token_ids


def test_a_video_that_is_read_again_keeps_its_source_until_it_is_closed(pipe, clip, set_meter):
    set_meter(FakeMeter(1))
    reports = []
    video = pipe.open(clip, progress=lambda *report: reports.append(report))
    assert reports == [] and video.timings["decode"] == 0
    answers = [
        video.ask(QUESTION, max_new_tokens=2, progress=lambda *report: reports.append(report))
        for _ in range(2)
    ]
    assert answers[0].token_ids == answers[1].token_ids
    assert all(answer.timings["decode"] > 0 for answer in answers)
    assert [report for report in reports if report[0] == "encode"].count(("encode", 4, 4)) == 2
    read = video._encoded.read
    video.close()
    with pytest.raises(VideoError, match="closed"), read(None) as segments:
        list(segments)


class Failing:
    """Wraps a method of the compressor: call number n runs out of memory after it has worked."""

    def __init__(self, monkeypatch, name, *numbers, error=None):
        self.calls, self.numbers = 0, numbers
        self.error = error or torch.OutOfMemoryError("CUDA out of memory")
        plain = getattr(Compressor, name)

        def run(compressor, *args, **kwargs):
            self.calls += 1
            result = plain(compressor, *args, **kwargs)
            if self.calls in self.numbers:
                raise self.error
            return result

        monkeypatch.setattr(Compressor, name, run)


@pytest.mark.parametrize("placement", ["device", "host"])
@pytest.mark.parametrize(("name", "call"), [("_see", 2), ("_prefill", 2), ("_append", 1)])
@pytest.mark.parametrize("lazy", [True, False])
def test_an_allocation_that_fails_halves_the_chunk_and_goes_on(
    pipe, clip_frames, set_meter, expected, monkeypatch, placement, name, call, lazy
):
    meter = set_meter(FakeMeter(1 << 40, 1 << 40))
    monkeypatch.setattr(pipe._compressors["video"], "chunk_tokens", 1600)
    monkeypatch.setattr("tempo_fast.engine.memory.PLACEMENTS", (placement,))
    failing = Failing(monkeypatch, name, call)
    reports = []
    with pipe.open(clip_frames, fps=2.0, progress=lambda *report: reports.append(report)) as video:
        actual = video.compress(QUESTION, lazy=lazy, **ASK)
        assert (video.memory.halved, meter.released) == (1, 1)
        again = video.compress(QUESTION, lazy=lazy, **ASK)
    assert failing.calls > 2
    close(actual, expected)
    close(again, expected)
    done = [done for stage, done, _ in reports if stage == "encode"]
    assert done == sorted(set(done)) and done[-1] == 5
    assert [done for stage, done, _ in reports if stage == "decode"] == list(range(6))


def test_one_segment_too_large_is_our_error(pipe, clip_frames, set_meter, monkeypatch):
    meter = set_meter(FakeMeter(3 << 30))
    Failing(monkeypatch, "_see", *range(100))
    with pytest.raises(OutOfMemoryError, match=r"one segment \(3\.0 GiB are free.*bfloat16"):
        pipe.open(clip_frames, fps=2.0)
    assert meter.released > 0
    monkeypatch.undo()
    set_meter(FakeMeter(None))
    with pipe.open(clip_frames, fps=2.0) as video:
        Failing(monkeypatch, "_append", *range(100))
        with pytest.raises(OutOfMemoryError, match="one segment"):
            video.ask(QUESTION)
        monkeypatch.undo()
        assert video.ask(QUESTION, max_new_tokens=1).token_ids


CPU_FULL = RuntimeError, "DefaultCPUAllocator: can't allocate memory"
DEVICE_FULL = torch.OutOfMemoryError, "CUDA out of memory. Tried to allocate 8.00 GiB."
PINNED_FULL = RuntimeError, "CUDA error: out of memory"


@pytest.mark.parametrize(
    ("host", "errors", "placement"),
    [
        (None, [CPU_FULL], "dropped"),
        (1 << 40, [DEVICE_FULL], "host"),
        (1 << 40, [DEVICE_FULL, PINNED_FULL], "dropped"),
        (1 << 10, [DEVICE_FULL], "dropped"),
    ],
    ids=["no host beside it", "the host", "a full host", "a small host"],
)
def test_rows_that_find_no_room_go_to_the_next_place(
    pipe, clip_frames, set_meter, expected, monkeypatch, host, errors, placement
):
    meter, coming, lost = set_meter(FakeMeter(1 << 40, host)), iter(errors), weakref.WeakSet()
    monkeypatch.setattr(pipe._compressors["video"], "chunk_tokens", 1)
    plain = KVCache.__init__

    def init(self, config, sequences, *args, **kwargs):
        assert sequences < 5 or not lost  # an attempt is gone before the next one
        plain(self, config, sequences, *args, **kwargs)
        if sequences == 5 and (found := next(coming, None)):
            lost.add(self)
            error, words = found
            raise error(words)

    monkeypatch.setattr(KVCache, "__init__", init)
    with pipe.open(clip_frames, fps=2.0) as video:
        assert (video.memory.placement, video.memory.halved) == (placement, 0)
        assert meter.released == len(errors)
        for _ in range(2):
            close(video.compress(QUESTION, **ASK), expected)
        answer = video.ask(QUESTION, max_new_tokens=6, **ASK)
    assert answer.memory["placement"] == placement
    assert (answer.timings["vision"] > 0) == (placement == "dropped")
    plenty = pipe(clip_frames, QUESTION, fps=2.0, max_new_tokens=6, **ASK)
    assert (plenty.memory["placement"], plenty.token_ids) == ("device", answer.token_ids)


def test_rows_that_fail_for_another_reason_stay_an_error(pipe, clip_frames, monkeypatch):
    def init(*args, **kwargs):
        raise RuntimeError("no kernel image is available")

    assert pipe.open(clip_frames, fps=2.0).memory.placement == "device"
    monkeypatch.setattr(KVCache, "__init__", init)
    with pytest.raises(RuntimeError, match="kernel image"):
        pipe.open(clip_frames, fps=2.0)


@pytest.mark.parametrize(
    ("name", "what"), [("language_model", "prompt"), ("compressor", "one segment")]
)
def test_a_cache_too_large_is_our_error(pipe, clip_frames, monkeypatch, name, what):
    decoder, plain = getattr(pipe.checkpoint.model, name), Decoder.new_cache

    def new_cache(self, sequences, capacity):
        if self is decoder and capacity > len(pipe._compressors["video"].prompt.system):
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return plain(self, sequences, capacity)

    monkeypatch.setattr(Decoder, "new_cache", new_cache)
    with pytest.raises(OutOfMemoryError, match=what):
        pipe(clip_frames, QUESTION, fps=2.0)


def test_a_question_too_long_for_the_rows_is_asked_in_copies_of_them(pipe, clip_frames, set_meter):
    long = "A much longer question " * 30
    whole = pipe.compress(clip_frames, long, fps=2.0, **ASK)
    with pipe.open(clip_frames, fps=2.0) as video:
        capacity = video._encoded.cache.capacity
        set_meter(FakeMeter(video.memory.activations))
        close(video.compress(long, **ASK), whole)
        assert video._encoded.cache.capacity == capacity
        set_meter(FakeMeter(1 << 40))
        close(video.compress(long, **ASK), whole)
        assert video._encoded.cache.capacity > capacity


def test_chunks_are_made_once_each_and_in_order():
    memory, meter = MemoryPlan(None, 0, 0, 0, 0, 10, "device"), FakeMeter(None)
    tried, failing = [], {(2, 7), (2, 4)}

    def work(items):
        tried.append((items.start, items.stop))
        if tried[-1] in failing:
            raise MemoryError
        return list(items)

    done = [result for _, result in in_chunks([5, 5, 2, 2, 2, 2, 2, 9, 1], memory, meter, work)]
    assert [item for result in done for item in result] == list(range(9))
    singles = [(i, i + 1) for i in range(2, 9)]
    assert tried == [(0, 2), (2, 7), (2, 4), *singles]
    assert meter.released == memory.halved == 2


def test_other_errors_are_left_alone():
    memory = MemoryPlan(None, 0, 0, 0, 0, 10, "device")

    def work(items):
        raise RuntimeError("shapes don't match")

    with pytest.raises(RuntimeError, match="shapes"):
        list(in_chunks([1], memory, FakeMeter(None), work))
