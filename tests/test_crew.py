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
from tempo_fast.engine.clock import Clock
from tempo_fast.engine.crew import Crew, crew_size, keep_on
from tempo_fast.engine.memory import SHARE, MemoryPlan
from tempo_fast.engine.meter import Meter
from tempo_fast.models.decoder import Decoder

CHECKPOINT = Path(__file__).parent / "golden" / "checkpoint" / "tiny-tempo"
CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("four_cores")


class AnyMeter(Meter):
    separate, released = False, 0

    def free(self):
        return None

    def release(self):
        self.released += 1


def plan_of(tokens, threads=1):
    return MemoryPlan(None, 0, 0, 0, 0, tokens, "device", threads)


def idle():
    """Whether every thread that there is has nothing to do."""
    for (size, _), pool in crew._pools.items():
        together = threading.Barrier(size + 1, timeout=10)
        for _ in range(size):
            pool.submit(together.wait)
        together.wait()
    return True


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
    for cores, size in ((1, 1), (2, 2), (3, 3), (4, 4), (5, 4), (6, 3), (7, 3), (8, 4), (12, 4)):
        monkeypatch.setattr(torch, "get_num_threads", lambda cores=cores: cores)
        assert crew_size(CPU) == size
    assert crew_size(torch.device("cuda")) == 1


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_chunks_come_in_order_whoever_ends_first(threads):
    prepared = []

    def work(items):
        time.sleep(0.002 * (items.start % 3))
        return list(items)

    found = in_chunks([1] * 40, plan_of(3, threads=threads), AnyMeter(), work, prepared.append)
    items, results = zip(*found, strict=True)
    assert [item for result in results for item in result] == list(range(40))
    assert list(items) == prepared and max(map(len, items)) == 3
    assert idle()


def test_chunks_are_worked_on_at_the_same_time():
    both = threading.Barrier(2, timeout=30)
    # One thread alone would wait here for the other.
    found = in_chunks([1] * 4, plan_of(100, 2), AnyMeter(), lambda _: both.wait())
    assert [list(items) for items, _ in found] == [[0, 1], [2, 3]]


def test_little_work_is_not_shared(monkeypatch):
    monkeypatch.setattr(chunks, "FEWEST_TOKENS", 256)
    tokens = [chunks.FEWEST_TOKENS // 4] * 4
    here = threading.current_thread()
    found = in_chunks(tokens, plan_of(10**6, 4), AnyMeter(), lambda _: threading.current_thread())
    assert [(list(items), thread) for items, thread in found] == [([0, 1, 2, 3], here)]


def test_no_work_at_all():
    assert list(in_chunks([], plan_of(1, threads=2), AnyMeter(), list)) == []


@pytest.mark.parametrize("threads", [2, 3])
def test_a_chunk_without_memory_is_halved_with_what_was_begun_behind_it(threads):
    memory, meter, failed = plan_of(4, threads), AnyMeter(), []

    def work(items):
        if len(items) > 1 and 5 in items:
            failed.append(items)
            raise MemoryError
        return list(items)

    prepared = set()
    found = in_chunks([1] * 20, memory, meter, work, prepared.update)
    assert [item for _, result in found for item in result] == list(range(20))
    assert meter.released == memory.halved == len(failed) == 2
    assert prepared == set(range(20)) and memory.chunk_tokens == 1


@pytest.mark.parametrize("threads", [1, 2])
def test_what_failed_attempts_made_is_gone_before_the_next(threads):
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
        assert len(list(in_chunks([1] * 8, plan_of(2, threads=threads), Watching(), work))) == 8
    finally:
        gc.enable()
    assert alive == [[]]


def test_one_item_without_memory_is_tried_again_with_nothing_beside_it():
    at_work, lock = [], threading.Lock()

    def work(items):
        with lock:
            at_work.append(items)
            beside = len(at_work)
        try:
            time.sleep(0.02)
            if beside > 1:
                raise MemoryError
            return list(items)
        finally:
            with lock:
                at_work.remove(items)

    memory, meter = plan_of(1, threads=4), AnyMeter()
    found = in_chunks([1] * 8, memory, meter, work)
    assert [item for _, result in found for item in result] == list(range(8))
    assert (memory.threads, memory.halved, meter.released) == (1, 0, 1)


def test_work_that_is_begun_again_has_ended_before():
    begun, again = [], threading.Event()

    def work(items):
        assert items not in begun, "the attempt before is still at work"
        begun.append(items)
        try:
            if items.start == 0 and not again.is_set():
                time.sleep(0.01)
                again.set()
                raise MemoryError
            again.wait()
            time.sleep(0.03)
            return items.start
        finally:
            begun.remove(items)

    found = in_chunks([1] * 6, plan_of(1, threads=2), AnyMeter(), work)
    assert [result for _, result in found] == list(range(6))


def test_chunks_of_uneven_work_are_not_shared():
    here = threading.current_thread()
    for tokens, shared in (([500, 100], False), ([300, 300], True), ([5, 5, 5], False)):
        plan = plan_of(500, threads=2)
        found = list(in_chunks(tokens, plan, AnyMeter(), lambda _: threading.current_thread()))
        assert all((thread is not here) == shared for _, thread in found)


def test_other_threads_keep_their_number_of_torchs_threads():
    seen, done = [], threading.Event()

    def look():
        while not done.is_set():
            other = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
            other.start()
            other.join()

    list(in_chunks([1] * 4, plan_of(1, threads=2), AnyMeter(), list))  # its threads are there
    looking = threading.Thread(target=look)
    looking.start()
    for _ in range(200):
        list(in_chunks([1] * 4, plan_of(1, threads=2), AnyMeter(), list))
    done.set()
    looking.join()
    assert set(seen) == {4}


def test_both_networks_end_between_layers(pipe, frames, monkeypatch):
    _ = pipe._compressors["video"].system
    for name in ("vision", "decoder"):
        calls = []

        def stop(calls=calls):
            calls.append(threading.current_thread().name)
            raise KeyError("nobody waits")

        with monkeypatch.context() as patch:
            patch.setattr(f"tempo_fast.models.{name}.keep_on", stop)
            pipe._compressors["video"].__dict__.setdefault(
                "system", pipe._compressors["video"].system
            )
            with pytest.raises(KeyError, match="nobody"):
                pipe.open(frames[:64], fps=2.0)
        assert calls and all(each.startswith("tempo-crew") for each in calls)
    assert idle()


def test_an_error_keeps_no_cache(pipe, frames, monkeypatch):
    made, new_cache = [], Decoder.new_cache

    def noting(self, *args):
        cache = new_cache(self, *args)
        made.append(weakref.ref(cache))
        return cache

    def fails(*_):
        raise OSError("broken")

    _ = pipe._compressors["video"].system
    monkeypatch.setattr(Decoder, "new_cache", noting)
    monkeypatch.setattr(type(pipe._compressors["video"]), "_prefill", fails)
    gc.disable()
    try:
        for _ in range(3):
            with pytest.raises(OSError, match="broken"):
                pipe.open(frames, fps=2.0)
        assert made and not any(cache() is not None for cache in made)
    finally:
        gc.enable()


def test_one_item_that_is_too_large_is_an_error():
    def work(items):
        if 2 in items:
            raise MemoryError
        return items

    with pytest.raises(OutOfMemoryError, match="one segment"):
        list(in_chunks([1] * 6, plan_of(1, threads=2), AnyMeter(), work))
    assert idle()


def test_another_error_comes_as_it_is_after_the_chunks_before_it():
    def work(items):
        if items.start == 3:
            raise ValueError("broken")
        return items.start

    seen = []
    with pytest.raises(ValueError, match="broken"):
        seen.extend(
            result for _, result in in_chunks([1] * 9, plan_of(1, threads=2), AnyMeter(), work)
        )
    assert idle()


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

    found = in_chunks([1] * 9, plan_of(1, threads=2), AnyMeter(), work)
    assert next(found)[1] == 0
    at_work.wait()
    found.close()
    assert len(ended) == 2 and idle()
    keep_on()  # another thread goes on


def test_work_has_the_modes_and_the_cores_of_who_asked():
    def modes():
        return torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.get_num_threads()

    for size, share in ((2, 2), (3, 1)):
        with Crew(size) as crew_of:
            assert crew_of.begin(modes)() == (True, False, share)
            with torch.no_grad():
                assert crew_of.begin(modes)() == (False, False, share)
            with torch.inference_mode():
                assert crew_of.begin(modes)() == (False, True, share)
    assert torch.get_num_threads() == 4


@pytest.mark.parametrize("options", [{}, {"lazy": False}, {"strategy": "tail"}])
def test_answers_are_those_of_one_thread(pipe, frames, options, monkeypatch):
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
    beside, beside_compressed = answer(4)
    assert len([name for name in names if name.startswith("tempo-crew")]) > 1
    assert beside.token_ids == alone.token_ids
    assert beside_compressed.allocations.tolist() == alone_compressed.allocations.tolist()
    torch.testing.assert_close(
        beside_compressed.inputs_embeds, alone_compressed.inputs_embeds, rtol=1e-5, atol=1e-5
    )
    assert idle()


def test_a_failing_frame_ends_the_crew(pipe, frames):
    def windows():
        yield frames[:8]
        raise OSError("the disk is gone")

    with pipe.open(frames[:40], fps=2.0) as video:
        compressor, encoded = video._compressor, video._encoded
        with pytest.raises(OSError, match="disk"):
            compressor.encode(encoded.plan, encoded.memory, encoded.cache, windows(), Clock(CPU))
    assert idle()


def test_the_plan_counts_what_is_in_flight(pipe, frames, monkeypatch):
    compressor = pipe._compressors["video"]

    def planned(count, free=None):
        monkeypatch.setattr(compressor, "meter", AnyMeter())
        monkeypatch.setattr(compressor.meter, "free", lambda: free)
        with pipe.open(frames[:count], fps=2.0) as video:
            return video.memory

    most = planned(70)
    assert most.threads == 4
    monkeypatch.setattr(crew, "MOST", 1)
    one = planned(70)
    assert one.threads == 1 and 2 * one.activations < most.activations <= 4 * one.activations
    monkeypatch.setattr(crew, "MOST", 4)
    # One segment has one thread, and threads go before the rows do.
    assert planned(8).threads == 1
    free = int((one.segment_cache + one.activations) / SHARE) + 1
    short = planned(70, free)
    assert (short.threads, short.placement) == (1, "device")
