"""Chunks that threads work on beside each other: the same answers, and no thread left behind."""

import gc
import threading
import time
import weakref
from pathlib import Path

import pytest
import torch

from tempo_fast import OutOfMemoryError, TempoFastPipeline
from tempo_fast.engine import chunks, crew
from tempo_fast.engine.chunks import in_chunks
from tempo_fast.engine.crew import Crew, crew_size, keep_on
from tempo_fast.engine.memory import MemoryPlan
from tempo_fast.engine.meter import Meter

CHECKPOINT = Path(__file__).parent / "golden" / "checkpoint" / "tiny-tempo"
CPU = torch.device("cpu")


class AnyMeter(Meter):
    separate, released = False, 0

    def free(self):
        return None

    def release(self):
        self.released += 1


def plan_of(tokens):
    return MemoryPlan(None, 0, 0, 0, 0, tokens, "device")


def workers():
    return [t for t in threading.enumerate() if t.name.startswith("tempo-fast-chunk")]


@pytest.fixture
def several(monkeypatch):
    """As on a machine with several cores."""
    before = torch.get_num_threads()
    monkeypatch.setattr(crew, "usable_cores", lambda: 3)
    monkeypatch.setattr(chunks, "FEWEST_TOKENS", 1)
    torch.set_num_threads(3)
    yield 3
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def pipe():
    return TempoFastPipeline.from_pretrained(CHECKPOINT)


@pytest.fixture(scope="module")
def frames():
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (70, 64, 96, 3), dtype=torch.uint8, generator=generator)


def test_the_crew_is_as_large_as_torch_and_the_machine_allow(monkeypatch):
    monkeypatch.setattr(crew, "usable_cores", lambda: 2)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    assert crew_size(CPU) == 2
    monkeypatch.setattr(crew, "usable_cores", lambda: 64)
    assert crew_size(CPU) == crew.MOST
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert crew_size(CPU) == 1
    assert crew_size(torch.device("cuda")) == 1


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_chunks_come_in_order_whoever_ends_first(threads):
    prepared = []

    def work(items):
        time.sleep(0.002 * (items.start % 3))
        return list(items)

    found = in_chunks([1] * 40, plan_of(3), AnyMeter(), work, prepared.append, threads=threads)
    items, results = zip(*found, strict=True)
    assert [item for result in results for item in result] == list(range(40))
    assert list(items) == prepared and max(map(len, items)) == 3
    assert not workers()


def test_chunks_are_worked_on_at_the_same_time(monkeypatch):
    monkeypatch.setattr(chunks, "FEWEST_TOKENS", 1)
    both = threading.Barrier(2, timeout=30)
    # One thread alone would wait here for the other.
    found = in_chunks([1] * 4, plan_of(100), AnyMeter(), lambda _: both.wait(), threads=2)
    assert [list(items) for items, _ in found] == [[0, 1], [2, 3]]


def test_little_work_is_not_shared():
    tokens = [chunks.FEWEST_TOKENS // 4] * 4
    here = threading.current_thread()
    found = in_chunks(
        tokens, plan_of(10**6), AnyMeter(), lambda _: threading.current_thread(), threads=4
    )
    assert [(list(items), thread) for items, thread in found] == [([0, 1, 2, 3], here)]


def test_no_work_at_all():
    assert list(in_chunks([], plan_of(1), AnyMeter(), list, threads=2)) == []


@pytest.mark.parametrize("threads", [2, 3])
def test_a_chunk_without_memory_is_halved_with_what_was_begun_behind_it(threads):
    memory, meter, failed = plan_of(4), AnyMeter(), []

    def work(items):
        if len(items) > 1 and 5 in items:
            failed.append(items)
            raise MemoryError
        return list(items)

    prepared = set()
    found = in_chunks([1] * 20, memory, meter, work, prepared.update, threads=threads)
    assert [item for _, result in found for item in result] == list(range(20))
    assert meter.released == memory.halved == len(failed) == 2
    assert prepared == set(range(20)) and memory.chunk_tokens == 1


@pytest.mark.parametrize("threads", [1, 2])
def test_what_failed_attempts_made_is_gone_before_the_next(threads, monkeypatch):
    monkeypatch.setattr(chunks, "FEWEST_TOKENS", 1)
    made, alive = [], []

    class Tensor:
        pass

    class Watching(AnyMeter):
        def release(self):
            alive.append([one for one in made if one() is not None])

    def work(items):
        activations = Tensor()
        made.append(weakref.ref(activations))
        if len(items) > 1:
            raise MemoryError
        return len(items)

    gc.disable()
    try:
        assert len(list(in_chunks([1] * 8, plan_of(2), Watching(), work, threads=threads))) == 8
    finally:
        gc.enable()
    assert alive == [[]]


def test_one_item_that_is_too_large_is_an_error():
    def work(items):
        if 2 in items:
            raise MemoryError
        return items

    with pytest.raises(OutOfMemoryError, match="one segment"):
        list(in_chunks([1] * 6, plan_of(1), AnyMeter(), work, threads=2))
    assert not workers()


def test_another_error_comes_as_it_is_after_the_chunks_before_it():
    def work(items):
        if items.start == 3:
            raise ValueError("broken")
        return items.start

    seen = []
    with pytest.raises(ValueError, match="broken"):
        seen.extend(
            result for _, result in in_chunks([1] * 9, plan_of(1), AnyMeter(), work, threads=2)
        )
    assert not workers()


def test_what_nobody_waits_for_ends_between_two_layers():
    at_work, ended = threading.Barrier(3, timeout=30), []

    def work(items):
        if items.start == 0:
            return 0
        at_work.wait()
        try:
            while True:
                keep_on()
                time.sleep(0.001)
        finally:
            ended.append(items)

    found = in_chunks([1] * 9, plan_of(1), AnyMeter(), work, threads=2)
    assert next(found)[1] == 0
    at_work.wait()
    found.close()
    assert len(ended) == 2 and not workers()
    keep_on()  # another thread goes on


def test_work_has_the_modes_and_the_cores_of_who_asked(several):
    def modes():
        return torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.get_num_threads()

    for size, share in ((2, 1), (3, 1)):
        with Crew(size) as crew_of:
            assert crew_of.begin(modes)() == (True, False, share)
            with torch.no_grad():
                assert crew_of.begin(modes)() == (False, False, share)
            with torch.inference_mode():
                assert crew_of.begin(modes)() == (False, True, share)
    assert torch.get_num_threads() == 3


@pytest.mark.parametrize("options", [{}, {"lazy": False}, {"strategy": "tail"}])
def test_answers_are_those_of_one_thread(pipe, frames, several, options, monkeypatch):
    asked = {"visual_token_budget": 40, "max_new_tokens": 6, **options}

    def answer(size):
        monkeypatch.setattr(crew, "MOST", size)
        with pipe.open(frames, fps=2.0) as video:
            return video.ask("What moves?", **asked), video.compress("What moves?", **options)

    alone, alone_compressed = answer(1)
    begun = Crew.begin
    names = set()

    def noting(self, work, *args):
        def named(*args):
            names.add(threading.current_thread().name)
            return work(*args)

        return begun(self, named, *args)

    monkeypatch.setattr(Crew, "begin", noting)
    beside, beside_compressed = answer(3)
    assert len([name for name in names if name.startswith("tempo-fast-chunk")]) == 3
    assert beside.token_ids == alone.token_ids
    assert beside_compressed.allocations.tolist() == alone_compressed.allocations.tolist()
    torch.testing.assert_close(
        beside_compressed.inputs_embeds, alone_compressed.inputs_embeds, rtol=1e-5, atol=1e-5
    )
    assert not workers()


def test_a_failing_frame_ends_the_crew(pipe, frames, several):
    class Breaks:
        def __len__(self):
            return len(frames)

    def windows():
        yield frames[:8]
        raise OSError("the disk is gone")

    from tempo_fast.engine.clock import Clock

    with pipe.open(frames[:40], fps=2.0) as video:
        compressor, encoded = video._compressor, video._encoded
        with pytest.raises(OSError, match="disk"):
            compressor.encode(encoded.plan, encoded.memory, windows(), Clock(CPU))
    assert not workers()


def test_the_plan_counts_what_is_in_flight(pipe, frames, several, monkeypatch):
    monkeypatch.setattr(crew, "MOST", 1)
    with pipe.open(frames, fps=2.0) as video:
        one = video.memory.activations
    monkeypatch.setattr(crew, "MOST", 3)
    with pipe.open(frames, fps=2.0) as video:
        assert 2 * one < video.memory.activations <= 3 * one
