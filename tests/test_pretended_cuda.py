"""The pretended device refuses what a GPU would, and a replay does what a graph's would."""

from __future__ import annotations

import pytest
import torch

from tempo_fast.engine import ops
from tempo_fast.engine.graphs import CudaGraphs
from tempo_fast.engine.streams import upload
from tempo_kernels.launch import HAS_TRITON, INTERPRETED

from .pretend_cuda import CUDA, pretend_cuda
from .pretend_streams import RefusedError

if not (HAS_TRITON and INTERPRETED):
    pytest.skip("needs TRITON_INTERPRET=1", allow_module_level=True)


@pytest.fixture
def gpu(monkeypatch):
    with pretend_cuda(monkeypatch, interpret=True) as device:
        yield device


def ones(*shape: int, **options) -> torch.Tensor:
    return torch.ones(shape, device=CUDA, **options)


def test_what_comes_of_a_device_is_on_it(gpu):
    x = ones(2, 3)
    made = [x + 1, x.T, x[0], x.new_zeros(2), torch.zeros_like(x), *x.split(1), x.to(torch.int64)]
    made += [torch.nn.functional.pad(x, (0, 1)), torch.nn.Parameter(x, requires_grad=False)]
    assert all(part.device == CUDA and part.is_cuda for part in made)
    assert x.cpu().device.type == "cpu" and not torch.ones(2).is_cuda
    assert x.add_(1) is x and x.tolist() == [[2.0] * 3] * 2


@pytest.mark.parametrize(
    "mix",
    [
        lambda x: x + torch.ones(3),
        lambda x: torch.cat([x, torch.ones(3)]),
        lambda x: x.index_select(0, torch.tensor([1])),
        lambda x: x.index_copy_(0, torch.tensor([1]).to(CUDA), torch.ones(1)),
        lambda x: torch.nn.functional.linear(x, torch.ones(2, 3)),
        lambda x: torch.stack([x[:1].sum(), torch.tensor(1.0)]),
        lambda x: torch.tensor(1.0).add_(x.sum()),
    ],
)
def test_operations_on_both_devices_are_refused(gpu, mix):
    with pytest.raises(RefusedError, match="cuda:0"):
        mix(ones(3))


def test_a_number_of_the_host_goes_with_any_tensor(gpu):
    assert (ones(2) * torch.tensor(3.0)).tolist() == [3.0, 3.0]


def test_a_kernel_takes_no_tensor_of_the_host(gpu, monkeypatch):
    x, weight = ones(2, 8), ones(8)
    torch.testing.assert_close(ops.rms_norm(x, weight, 0.0).cpu(), torch.ones(2, 8))
    assert gpu.kernels == ["_rms_norm_kernel"]
    monkeypatch.setattr("tempo_kernels.rms_norm.check_tensor", lambda *_, **__: None)
    with pytest.raises(RefusedError, match="kernel"):
        ops.rms_norm(x, torch.ones(8), 0.0)


def test_waiting_is_counted(gpu):
    x = ones(3)
    for wait in (x.sum().item, x.tolist, x.cpu, x.nonzero, lambda: x[x > 0], lambda: bool(x[0])):
        before = len(gpu.waits)
        wait()
        assert len(gpu.waits) > before
    gpu.waits.clear()
    upload(torch.ones(3), CUDA)
    x.repeat_interleave(2, output_size=6)
    assert not gpu.waits


def recorded(run):
    return CudaGraphs(CUDA).capture(run, lambda: None)


@pytest.mark.parametrize(
    "run",
    [
        lambda x: x.sum().item(),
        lambda x: torch.tensor([1], device=CUDA),
        lambda x: upload(torch.ones(1), CUDA),
        lambda x: x.nonzero(),
        lambda x: x.repeat_interleave(x.long()),
        lambda x: x.uniform_(),
        lambda x: torch.rand(3, device=CUDA),
        lambda x: x[x > 0],
        lambda x: x[[0, 1]],
        lambda x: x[: x.long().sum()],
        lambda x: x.index_put_((x > 0,), x[0]),
        lambda x: torch.where(x > 0),
        lambda x: x.new_tensor([1.0]),
        lambda x: torch.full((3,), x[0], device=CUDA),
        lambda x: f"{x[0]}",
        lambda x: x.copy_(torch.ones(3)),
        lambda x: torch.cuda.current_stream().synchronize(),
    ],
)
def test_what_waits_or_copies_is_refused_in_a_recording(gpu, run):
    x = ones(3)
    run(x)
    with pytest.raises(RefusedError, match="recording"):
        recorded(lambda: run(x))
    x.tolist()  # it is over


def test_a_recording_changes_nothing_and_a_replay_reads_the_device_alone(gpu):
    x, total, step = ones(2), torch.zeros(2, device=CUDA), torch.tensor(1.0)

    def run():
        total.add_(ops.swiglu(torch.cat((x, x))[None])[0] * 0 + x * step)

    replay = recorded(run)
    assert total.tolist() == [2.0, 2.0]  # it ran twice to warm up
    x.fill_(5.0)
    step.fill_(100.0)
    replay()
    assert total.tolist() == [7.0, 7.0]
    assert gpu.replays == 1


def test_what_a_warm_up_wrote_can_be_read_when_it_has_failed(gpu):
    x = ones(2)

    def run():
        x.add_(1)
        raise ValueError("no room")

    with pytest.raises(ValueError, match="no room"):
        recorded(run)
    assert x.tolist() == [2.0, 2.0]


def test_streams_wait_for_what_they_read(gpu):
    other = torch.cuda.Stream()
    x = ones(2)
    with torch.cuda.stream(other), pytest.raises(RefusedError, match="reads"):
        x + 1
    other.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(other):
        x + 1


def test_what_the_host_has_waited_for_is_behind_all(gpu):
    other = torch.cuda.Stream()
    x = ones(2)
    early = torch.cuda.current_stream().record_event()
    x.add_(1)
    early.synchronize()
    with torch.cuda.stream(other), pytest.raises(RefusedError, match="reads"):
        x + 1
    torch.cuda.current_stream().record_event().synchronize()
    with torch.cuda.stream(other):
        x + 1


def test_streams_wait_before_they_write_what_another_one_reads(gpu):
    here, other = torch.cuda.current_stream(), torch.cuda.Stream()
    x = ones(2)
    other.wait_stream(here)
    early = other.record_event()
    with torch.cuda.stream(other):
        x + 1
    here.wait_event(early)
    with pytest.raises(RefusedError, match="writes what another one reads"):
        x.zero_()
    here.wait_stream(other)
    x.zero_()


def test_replays_wait_for_each_other_and_for_who_reads_what_they_made(gpu):
    x, made = ones(2), []
    replay = recorded(lambda: made.append(x + 1))
    replay()
    other = torch.cuda.Stream()
    other.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(other):
        made[-1] + 1
    with pytest.raises(RefusedError, match="writes what another one"):
        replay()


def test_copies_of_pinned_memory_wait_for_each_other(gpu):
    x, host = ones(2), torch.zeros(2, device="cpu", pin_memory=True)
    other = torch.cuda.Stream()
    other.wait_stream(torch.cuda.current_stream())
    host.copy_(x, non_blocking=True)
    with torch.cuda.stream(other), pytest.raises(RefusedError, match="reads"):
        x.copy_(host, non_blocking=True)


@pytest.mark.parametrize("write", [True, False])
@pytest.mark.parametrize("held", [True, False])
def test_memory_is_held_for_the_stream_that_uses_it(gpu, held, write):
    other, x = torch.cuda.Stream(), ones(1000)
    other.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(other):
        y = x.add_(1).sum() if write else x + 1
        if held:
            x.record_stream(other)
    del x
    if held:
        ones(1)
    else:
        with pytest.raises(RefusedError, match="may reuse"):
            ones(1)
    assert y is not None
