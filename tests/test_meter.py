"""What counts as free: of the host, and of what torch's allocator holds of a GPU."""

from __future__ import annotations

import pytest
import torch

from tempo_fast.engine import meter as meters
from tempo_fast.engine.graphs import recording
from tempo_fast.engine.meter import CudaMeter, HostMeter, is_out_of_memory

COMMON, GRAPHS = (0, 0), (0, 3)


def segment(total: int, allocated: int, pool: tuple[int, int] = COMMON, device: int = 0) -> dict:
    """A piece of memory as torch.cuda.memory_snapshot() tells of it."""
    return {
        "device": device,
        "total_size": total,
        "allocated_size": allocated,
        "segment_pool_id": pool,
    }


@pytest.fixture
def held(monkeypatch):
    """held(segments): torch's allocator holds them, and the driver has 1000 bytes left."""

    def hold(*segments: dict) -> None:
        monkeypatch.setattr(torch.cuda, "memory_snapshot", lambda: list(segments))

    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 5000))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_allocator_backend", lambda: "native")
    hold()
    return hold


def test_what_is_held_unused_is_free(held):
    meter = CudaMeter(torch.device("cuda", 0))
    assert meter.free() == 1000
    held(segment(200, 50), segment(70, 0), segment(30, 30))
    assert meter.free() == 1000 + 150 + 70


def test_what_is_held_for_graphs_is_not_free(held):
    held(segment(200, 50), segment(400, 0, GRAPHS), segment(300, 100, [0, 4]), segment(90, 0))
    assert CudaMeter(torch.device("cuda", 0)).free() == 1000 + 150 + 90


@pytest.mark.parametrize(("name", "free"), [("cuda", 1150), ("cuda:0", 1150), ("cuda:1", 1007)])
def test_only_this_gpus_memory_counts(held, name, free):
    held(segment(200, 50), segment(7, 0, device=1))
    assert CudaMeter(torch.device(name)).free() == free


def test_an_allocator_that_does_not_tell_its_pools_apart(held, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_allocator_backend", lambda: "cudaMallocAsync")
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 90)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 50)
    monkeypatch.delattr(torch.cuda, "memory_snapshot")  # it raises there
    assert CudaMeter(torch.device("cuda")).free() == 1040


def test_memory_goes_back_when_the_device_is_done_and_nothing_is_recorded(monkeypatch):
    device, calls = torch.device("cuda", 1), []

    def noted(name):
        return lambda *where: calls.append((name, *where, recording.locked()))

    for name in ("synchronize", "empty_cache"):
        monkeypatch.setattr(torch.cuda, name, noted(name))
    host = "empty_host_cache"
    monkeypatch.setattr(torch.accelerator, host, noted(host), raising=False)
    CudaMeter(device).release()
    assert calls == [("synchronize", device, True), ("empty_cache", True), (host, True)]
    monkeypatch.delattr(torch.accelerator, host)
    CudaMeter(device).release()
    assert len(calls) == 5
    assert not recording.locked()


def test_the_hosts_free_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(meters, "MEMINFO", tmp_path / "meminfo")
    assert HostMeter().free() is None
    (tmp_path / "meminfo").write_text("MemTotal:  9 kB\nMemAvailable:       7 kB\nCached: 1 kB\n")
    assert HostMeter().free() == 7 * 1024


def test_errors_that_say_memory_ran_out():
    assert not is_out_of_memory(ValueError("can't allocate memory"))
    assert is_out_of_memory(torch.OutOfMemoryError("any words"))
    for words in ("CUDA error: out of memory", "Triton Error [CUDA]: out of memory"):
        assert is_out_of_memory(RuntimeError(words))
