"""What a GPU's meter counts as free of what torch's allocator holds."""

from __future__ import annotations

import pytest
import torch

from tempo_fast.engine.meter import CudaMeter

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
