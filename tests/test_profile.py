"""`tempo-fast profile`: the trace, its named stages, and a GPU that is read through NVML."""

from __future__ import annotations

import gzip
import json
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tempo_fast.cli import main
from tempo_fast.engine import clock as clocks
from tempo_fast.errors import OptionError
from tempo_fast.profiling import GpuSampler, open_nvml, profile_question, tables

UUID = "12345678-1234-1234-1234-123456789abc"


class FakeNvml:
    """An NVML of one GPU that draws 10 W more at every reading and doesn't tell its energy.

    mig: whether the GPU is cut into instances. instance: its one instance's UUID.
    """

    NVML_CLOCK_SM, NVML_CLOCK_MEM = 1, 2

    class NVMLError(Exception):
        pass

    class NVMLError_NotSupported(NVMLError):  # noqa: N801, N818 - NVML's name
        pass

    class NVMLError_NotFound(NVMLError):  # noqa: N801, N818
        pass

    class NVMLError_NoPermission(NVMLError):  # noqa: N801, N818
        pass

    def __init__(
        self,
        *,
        energy: bool = False,
        broken: bool = False,
        mig: bool | None = None,
        instance: str | None = None,
    ) -> None:
        self.energy, self.broken = energy, broken
        self.mig, self.known = mig, {f"GPU-{UUID}": "whole", f"MIG-{instance}": "instance"}
        self.power, self.asked = 90_000, ""
        self.forbidden: tuple[str, ...] = ()

    def nvmlDeviceGetHandleByUUID(self, uuid):  # noqa: N802
        self.asked = uuid
        if uuid not in self.known:
            raise self.NVMLError_NotFound
        return self.known[uuid]

    def nvmlDeviceGetMigMode(self, handle):  # noqa: N802
        if self.mig is None:
            raise self.NVMLError_NotSupported
        return int(self.mig), 0

    def nvmlDeviceGetDeviceHandleFromMigDeviceHandle(self, handle):  # noqa: N802
        assert handle == "instance"
        return "whole"

    def nvmlDeviceGetPowerUsage(self, handle):  # noqa: N802
        assert handle == "whole"
        if self.broken:
            raise self.NVMLError("GPU is lost")
        self.power += 10_000
        return self.power

    def nvmlDeviceGetTotalEnergyConsumption(self, handle):  # noqa: N802
        assert handle == "whole"
        if not self.energy:
            raise self.NVMLError_NotSupported
        return self.power * 2

    def nvmlDeviceGetClockInfo(self, handle, kind):  # noqa: N802
        assert handle == "whole"
        return {1: 1980, 2: 3201}[kind]

    def nvmlDeviceGetMemoryInfo(self, handle):  # noqa: N802
        if handle in self.forbidden:
            raise self.NVMLError_NoPermission
        return SimpleNamespace(used={"whole": 5 * 2**30, "instance": 2**30}[handle])

    def nvmlDeviceGetUtilizationRates(self, handle):  # noqa: N802
        if self.mig:
            raise self.NVMLError_NotSupported
        return SimpleNamespace(gpu=80, memory=30)


@pytest.fixture
def gpu(monkeypatch):
    """A CUDA device with a UUID."""
    return named(monkeypatch, UUID)


def named(monkeypatch, uuid):
    """A CUDA device of which torch reports this UUID."""
    facts = SimpleNamespace(uuid=uuid)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: facts)
    return torch.device("cuda", 0)


def test_a_gpu_is_read_while_the_work_runs(gpu):
    fake = FakeNvml(energy=True)
    with GpuSampler(fake, gpu, interval=0.001) as sampler:
        while fake.power < 150_000:
            time.sleep(0.001)
    summary = sampler.summary()
    assert fake.asked == f"GPU-{UUID}"
    assert summary["samples"] >= 6
    assert summary["power_w"]["min"] == 100 and summary["power_w"]["max"] >= 150
    assert summary["energy_j"] == (fake.power - 90_000) * 2 / 1e3
    assert summary["sm_clock_mhz"] == {"mean": 1980, "max": 1980, "min": 1980}
    assert summary["memory_clock_mhz"]["mean"] == 3201
    assert summary["memory_used_bytes"]["max"] == 5 * 2**30
    assert summary["mig"] is None
    assert summary["utilisation_percent"]["mean"] == 80
    assert summary["memory_utilisation_percent"]["mean"] == 30


def test_what_a_gpu_does_not_offer_is_none(gpu):
    with GpuSampler(FakeNvml(), gpu) as sampler:
        pass
    assert sampler.summary()["energy_j"] is None
    assert sampler.summary()["samples"] == 1  # one at once, however short the work


def test_a_failing_gpu_is_an_error_after_the_work(gpu):
    sampler = GpuSampler(FakeNvml(broken=True), gpu)
    with pytest.raises(FakeNvml.NVMLError, match="lost"), sampler:
        pass
    with pytest.raises(ValueError, match="the work"), GpuSampler(FakeNvml(broken=True), gpu):
        raise ValueError("the work's own comes first")


PART = "87654321-1234-1234-1234-123456789abc"


@pytest.mark.parametrize("reported", [PART, f"MIG-{PART}"])
def test_of_a_mig_instance_only_the_memory_is_its_own(monkeypatch, reported):
    fake = FakeNvml(energy=True, mig=True, instance=PART)
    with GpuSampler(fake, named(monkeypatch, reported)) as sampler:
        pass
    summary = sampler.summary()
    assert fake.asked == f"MIG-{PART}"
    assert summary["mig"] == "a MIG instance: power, energy and clocks are those of its whole GPU"
    assert summary["memory_used_bytes"]["max"] == 2**30
    assert summary["power_w"]["min"] == 100 and summary["sm_clock_mhz"]["mean"] == 1980
    assert summary["energy_j"] is not None
    assert summary["utilisation_percent"] is summary["memory_utilisation_percent"] is None


@pytest.mark.parametrize(("mig", "said"), [(True, "all figures are those"), (False, None)])
def test_a_gpu_that_can_be_cut_into_instances(monkeypatch, mig, said):
    """CUDA may name the GPU that an instance is part of, whose memory a container may not see."""
    fake = FakeNvml(mig=mig)
    fake.forbidden = ("whole",) if mig else ()
    with GpuSampler(fake, named(monkeypatch, f"GPU-{UUID}")) as sampler:
        pass
    found = sampler.summary()
    assert said in found["mig"] if said else found["mig"] is None
    assert (found["memory_used_bytes"] is None) == mig


@pytest.mark.parametrize("reported", [PART, f"GPU-{PART}", f"MIG-{PART}"])
def test_a_device_that_nvml_does_not_know_is_an_error(monkeypatch, reported):
    with pytest.raises(FakeNvml.NVMLError_NotFound):
        GpuSampler(FakeNvml(), named(monkeypatch, reported))


def test_no_driver_is_said(monkeypatch):
    def fail() -> None:
        raise FakeNvml.NVMLError("Driver Not Loaded")

    module = SimpleNamespace(nvmlInit=fail, NVMLError=FakeNvml.NVMLError)
    monkeypatch.setitem(sys.modules, "pynvml", module)
    assert open_nvml() == "NVML can't be used here: Driver Not Loaded"
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert "pip install 'tempo-fast[profile]'" in open_nvml()


def test_stages_are_named_only_when_asked(monkeypatch):
    opened = []
    monkeypatch.setattr(
        torch.profiler, "record_function", lambda name: opened.append(name) or _Nothing()
    )
    clock = clocks.Clock(torch.device("cpu"))
    with clock("vision"):
        pass
    assert opened == []
    with clocks.named_stages(), clock("vision"):
        pass
    with clock("vision"):
        pass
    assert opened == ["stage: vision"] and clock.seconds["vision"] > 0


class _Nothing:
    def __enter__(self) -> None: ...

    def __exit__(self, *exception: object) -> None: ...


def test_nvtx_ranges_on_cuda(monkeypatch):
    pushed = []
    monkeypatch.setattr(torch.cuda.nvtx, "range", lambda name: pushed.append(name) or _Nothing())
    stream = SimpleNamespace(synchronize=lambda: pushed.append("synchronized"))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    clock = clocks.Clock(torch.device("cuda"))
    with clocks.named_stages(), clock("compress"):
        pass
    # The range holds the device's work too: it ends after the wait.
    assert pushed == ["stage: compress", "synchronized"]


def test_profile_command(tmp_path, golden, capsys):
    np.save(tmp_path / "clip.npy", np.zeros((9, 64, 96, 3), np.uint8))
    command = ["profile", str(tmp_path / "clip.npy"), "What is it?", "--device", "cpu"]
    model = ["--model", str(golden / "checkpoint" / "tiny-tempo"), "--max-new-tokens", "3"]
    out = tmp_path / "out"
    assert main([*command, *model, "--warm-ups", "0", "--output", str(out)]) == 0
    assert sorted(path.name for path in out.iterdir()) == [
        "summary.json",
        "tables.txt",
        "trace.json.gz",
    ]
    with gzip.open(out / "trace.json.gz", "rt") as file:
        names = {event.get("name") for event in json.load(file)["traceEvents"]}
    stages = {name for name in names if name and name.startswith("stage: ")}
    assert stages >= {f"stage: {each}" for each in ("vision", "compress", "prefill", "generate")}
    summary = json.loads((out / "summary.json").read_text())
    assert summary["new_tokens"] == 3 and summary["segments"] == 2
    assert 0 < summary["first_token_seconds"] < summary["seconds"]
    assert summary["gpu"] == {"missing": "the work runs on the CPU"}
    assert any(row["name"] == "aten::mm" for row in summary["operators"])
    assert all(not row["name"].startswith("stage: ") for row in summary["operators"])
    printed = capsys.readouterr().out
    assert "not measured: the work runs on the CPU" in printed and "vision" in printed


def test_bad_settings_are_refused(tmp_path):
    for wrong in ({"warm_ups": -1}, {"interval": 0}):
        with pytest.raises(OptionError, match=r"negative|above 0"):
            profile_question(None, None, "", tmp_path, **wrong)


def test_tables_show_the_gpu():
    summary = {
        "machine": {"device": "NVIDIA H200"},
        "dtype": "bfloat16",
        "segments": 1,
        "prompt_tokens": 2,
        "new_tokens": 3,
        "seconds": 2.0,
        "first_token_seconds": 1.0,
        "stages": {"vision": 0.5},
        "operators": [{"name": "mm", "calls": 4, "host_seconds": 0.1, "device_seconds": 0.25}],
        "gpu": {
            "samples": 5,
            "mig": None,
            "energy_j": None,
            "power_w": {"mean": 500, "max": 700, "min": 90},
        },
        "peak_bytes": 123456,
    }
    text = tables.render(summary)
    for part in ("NVIDIA H200", "25.0%", "250.00", "not offered", "700", "123,456"):
        assert part in text
    assert "MIG" not in text
    summary["gpu"]["mig"] = "a MIG instance: as it is"
    assert "\na MIG instance: as it is\n" in tables.render(summary)
