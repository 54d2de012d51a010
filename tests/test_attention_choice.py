"""How a network's attention backend is chosen, on pretended GPUs."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tempo_fast import TempoFastPipeline, onednn
from tempo_fast.engine.attention import (
    CACHED,
    DENSE,
    Site,
    availability,
    choose_cached,
    choose_dense,
    dense,
)
from tempo_fast.errors import OptionError

fake = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("fake_flash.py"))))

GPU = torch.device("cuda")


@pytest.fixture
def gpu_of(monkeypatch):
    """Pretends a GPU of a compute capability, with every package but those in `without`. fused:
    whether PyTorch has its own kernels. cudnn: its version, None without it, or what is wrong."""

    fake.install(monkeypatch)

    def pretend(*capability, without=(), fused=True, cudnn=91900):
        def version():
            if isinstance(cudnn, Exception):
                raise cudnn
            return cudnn

        monkeypatch.setattr(torch.backends.cudnn, "is_available", lambda: cudnn is not None)
        monkeypatch.setattr(torch.backends.cudnn, "version", version)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
        monkeypatch.setattr(torch.backends.cuda, "is_flash_attention_available", lambda: fused)
        for can_use in ("can_use_cudnn_attention", "can_use_flash_attention"):
            monkeypatch.setattr(torch.backends.cuda, can_use, lambda params, debug: fused)
        monkeypatch.setattr(dense, "_sample", lambda site: None)
        for module in without:
            monkeypatch.setitem(sys.modules, module, None)

    return pretend


def chosen(dtype=torch.bfloat16, head_dim=128, device=GPU):
    site = Site(device, dtype, head_dim)
    return choose_cached(site).name, choose_dense(site).name


FA2, FA3 = "flash_attn", "flash_attn_interface"


@pytest.mark.parametrize(
    ("capability", "without", "fused", "expected"),
    [
        ((9, 0), (), True, ("fa3", "fa3")),
        ((9, 0), (FA3,), True, ("varlen", "cudnn")),
        ((9, 0), (FA3,), False, ("fa2", "fa2")),
        ((9, 0), (FA3, FA2), False, ("sdpa", "sdpa")),
        ((8, 0), (), True, ("varlen", "fa2")),
        ((8, 6), (FA2,), True, ("varlen", "flash")),
        ((10, 0), (), True, ("varlen", "cudnn")),
        ((7, 5), (), True, ("sdpa", "sdpa")),
    ],
)
def test_auto_takes_the_first_that_can_run(capability, without, fused, expected, gpu_of):
    gpu_of(*capability, without=without, fused=fused)
    assert chosen() == expected
    assert chosen(torch.float32) == ("sdpa", "sdpa")
    assert chosen(device=torch.device("meta")) == ("sdpa", "sdpa")
    assert chosen(head_dim=20)[0] == "sdpa"


def test_a_variable_forces_one(monkeypatch, gpu_of):
    gpu_of(9, 0, without=(FA3,))
    monkeypatch.setenv("TEMPO_FAST_ATTENTION", "fa2")
    monkeypatch.setenv("TEMPO_FAST_VISION_ATTENTION", "flash")
    assert chosen() == ("fa2", "flash")
    assert chosen(torch.float32) == ("sdpa", "sdpa")
    assert chosen(device=torch.device("meta")) == ("sdpa", "sdpa")


@pytest.mark.parametrize(
    ("capability", "without", "name", "message"),
    [
        ((8, 0), (), "fa3", r"can't run on cuda: needs .* capability 9.x; this one's is 8.0"),
        ((9, 0), (FA3,), "fa3", r"needs FlashAttention-3 .*; flash_attn_interface can't be imp"),
        ((9, 0), (FA2,), "fa2", r"needs flash-attn 2.3 or newer; flash_attn can't be imported"),
        ((9, 0), (), "cudnn", r"must be auto, fa3, varlen, fa2, onednn, sdpa; got 'c"),
        ((9, 0), (), "onednn", "needs a CPU with AVX-512"),
        ((9, 0), (), "", "got ''"),
    ],
)
def test_a_backend_that_cannot_run_is_an_error(
    capability, without, name, message, monkeypatch, gpu_of
):
    gpu_of(*capability, without=without)
    monkeypatch.setenv("TEMPO_FAST_ATTENTION", name)
    with pytest.raises(OptionError, match=message):
        chosen()


CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("wide", "amd"), [(True, True), (True, False), (False, True)])
def test_a_cpu_takes_onednn_where_it_is_faster(wide, amd, dtype, monkeypatch):
    monkeypatch.setattr(onednn, "AVAILABLE", wide)
    monkeypatch.setattr(onednn, "AMD", amd)
    name = "onednn" if wide and amd else "sdpa"
    assert chosen(dtype, device=CPU) == (name, name)
    assert chosen(torch.float64, device=CPU) == ("sdpa", "sdpa")
    monkeypatch.setenv("TEMPO_FAST_ATTENTION", "sdpa")
    assert chosen(dtype, device=CPU) == ("sdpa", name)
    monkeypatch.setenv("TEMPO_FAST_ATTENTION", "onednn")
    if wide:
        assert chosen(dtype, device=CPU)[0] == "onednn"
        with pytest.raises(OptionError, match=r"has no torch\.float64"):
            chosen(torch.float64, device=CPU)
        return
    with pytest.raises(OptionError, match="can't run on cpu: needs a CPU with AVX-512"):
        chosen(dtype, device=CPU)


def test_a_package_without_what_is_called_counts_as_missing(monkeypatch, gpu_of):
    gpu_of(9, 0)
    old = fake.flash_attn()
    del old.flash_attn_with_kvcache
    monkeypatch.setitem(sys.modules, FA2, old)
    found = availability(CACHED, Site(GPU, torch.bfloat16, 128))
    assert found["fa3"] == found["varlen"] == found["sdpa"] == "available"
    assert "the installed flash_attn has no flash_attn_with_kvcache" in found["fa2"]
    found = availability(CACHED, Site(GPU, torch.bfloat16, 260))
    assert "at most 256; it is 260" in found["varlen"]


@pytest.mark.parametrize(
    ("cudnn", "lacking"),
    [
        (None, "needs a PyTorch built with cuDNN"),
        (RuntimeError("another one"), "needs the cuDNN that PyTorch comes with (another one)"),
        (91002, "needs cuDNN 9.15.1 or newer; this one is 9.10.2"),
        (91500, "needs cuDNN 9.15.1 or newer; this one is 9.15.0"),
        (91501, "available"),
    ],
)
def test_cudnn_is_asked_for_before_it_is_chosen(gpu_of, monkeypatch, cudnn, lacking):
    gpu_of(9, 0, without=(FA3,), cudnn=cudnn)
    site = Site(GPU, torch.bfloat16, 64)
    assert availability(DENSE, site)["cudnn"] == lacking
    assert choose_dense(site).name == ("cudnn" if lacking == "available" else "fa2")
    monkeypatch.setenv("TEMPO_FAST_VISION_ATTENTION", "cudnn")
    if lacking != "available":
        with pytest.raises(OptionError, match=r"can't run on cuda: needs .*cuDNN"):
            choose_dense(site)


def test_pytorchs_own_reason_is_given(monkeypatch):
    """On CPU tensors PyTorch says no by itself."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.backends.cudnn, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: dense.OLDEST_CUDNN)
    sample = dense._sample
    cpu = Site(torch.device("cpu"), torch.bfloat16, 64)
    monkeypatch.setattr(dense, "_sample", lambda site: sample(cpu))
    # A PyTorch with CUDA asks the driver of cuDNN's first, which raises where there is none.
    driverless = torch.backends.cuda.is_built() and not torch.cuda.is_available()
    names = {"flash"} if driverless else {"flash", "cudnn"}
    asked = [each for each in DENSE if each.name in names]
    found = availability(asked, Site(GPU, torch.bfloat16, 64))
    assert found.keys() == names
    for reason in found.values():
        assert reason.startswith("PyTorch can't use it here (")


def test_a_checkpoint_is_refused_at_loading(monkeypatch, golden):
    monkeypatch.setenv("TEMPO_FAST_VISION_ATTENTION", "cudnn")
    with pytest.raises(OptionError, match="can't run on cpu: needs an NVIDIA GPU"):
        TempoFastPipeline.from_pretrained(golden / "checkpoint" / "tiny-tempo", device="cpu")
