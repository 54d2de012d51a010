"""What every launcher shares: validation before a launch, and the record of a compiled variant."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch

from tempo_kernels.language import HAS_TRITON, triton

__all__ = [
    "HAS_TRITON",
    "INTERPRETED",
    "Variant",
    "check",
    "check_indices",
    "check_tensor",
    "next_power_of_2",
]

# Triton 3.9 warns unless this is said, and 3.10 would fuse no more: a * b + c is one rounding here.
os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")

# Read once: a kernel is bound to the interpreter or to the compiler when it is decorated.
INTERPRETED: bool = HAS_TRITON and triton.knobs.runtime.interpret

# When launchers look at the values of indices: "auto" is where that waits for no GPU.
CHECK_INDICES = os.environ.get("TEMPO_FAST_CHECK_INDICES", "auto")
if CHECK_INDICES not in ("auto", "always", "never"):
    raise ValueError(
        f"TEMPO_FAST_CHECK_INDICES is {CHECK_INDICES!r}; auto, always or never is needed"
    )


def next_power_of_2(n: int) -> int:
    """The least power of two that is not under n."""
    return 1 << (n - 1).bit_length()


@dataclass(frozen=True)
class Variant:
    """One configuration in which the engine launches a kernel, for ahead-of-time compilation.

    name: what tells it from the operation's other variants, e.g. "bf16, D 2048".
    kernel: the `@triton.jit` function.
    signature: type by argument name ("*bf16", "*i64", "i32", "fp32"); constexpr arguments may be
        left out.
    constants: value by name of each constexpr argument.
    divisible: arguments whose address or value is a multiple of 16 when the engine launches it.
    num_warps, num_stages, fp_fusion (`enable_fp_fusion`): as at the launch; the defaults are
        Triton's own.
    narrow_load, narrow_store: why no thread loads, or stores, 16 bytes at once (data is scattered
        or few, or wider accesses cost more); "" where one does, as ahead-of-time compilation then
        demands.
    """

    name: str
    kernel: Any
    signature: dict[str, str]
    constants: dict[str, Any]
    divisible: tuple[str, ...]
    num_warps: int
    num_stages: int = 3
    fp_fusion: bool = True
    narrow_load: str = ""
    narrow_store: str = ""


def check(condition: bool, message: str) -> None:
    """Raises ValueError(message) unless `condition`, which the host knows without waiting."""
    if not condition:
        raise ValueError(message)


def check_indices(name: str, indices: torch.Tensor, end: int) -> None:
    """Raises ValueError unless every one of `indices` is in 0…end - 1.

    To look at indices on a GPU is to wait for it: there only with TEMPO_FAST_CHECK_INDICES=always,
    for finding what is wrong, and not while a graph is captured. Kernels that get an index out of
    range all the same read and write nothing for it; each says what comes out.
    """
    if CHECK_INDICES == "never" or indices.numel() == 0 or indices.is_meta:
        return
    if indices.is_cuda and (CHECK_INDICES == "auto" or torch.cuda.is_current_stream_capturing()):
        return
    least, most = (int(x) for x in indices.aminmax())
    if least < 0 or most >= end:
        wrong = least if least < 0 else most
        needed = f"0 to {end - 1} is needed" if end > 0 else "there is nothing to index"
        raise ValueError(f"{name} has {wrong}; {needed}")


def check_tensor(
    name: str,
    tensor: torch.Tensor,
    *,
    shape: tuple[int | None, ...],
    dtypes: torch.dtype | Collection[torch.dtype],
    device: torch.device | None = None,
    contiguous: bool = True,
) -> None:
    """Raises ValueError, naming the argument and what is needed, unless the tensor fits a launch.

    shape: the sizes; None is any size. dtypes: one dtype or those allowed.
    device: that of the other arguments; None for the first, which must then be on the current CUDA
        device (Triton launches there, wherever the data is) or, in the interpreter, anywhere.
    contiguous: False lets any strides pass; the caller checks those it relies on.
    """
    if not isinstance(tensor, torch.Tensor):
        raise ValueError(f"{name} is a {type(tensor).__name__}; a torch.Tensor is needed")
    allowed = (dtypes,) if isinstance(dtypes, torch.dtype) else dtypes
    if tensor.dtype not in allowed:
        needed = " or ".join(sorted(str(dtype) for dtype in allowed))
        raise ValueError(f"{name} is {tensor.dtype}; {needed} is needed")
    actual = tensor.shape
    if len(actual) != len(shape) or any(
        need is not None and size != need for size, need in zip(actual, shape, strict=True)
    ):
        needed = ", ".join("any" if size is None else str(size) for size in shape)
        raise ValueError(f"{name} has shape {list(actual)}; [{needed}] is needed")
    if contiguous and not tensor.is_contiguous():
        raise ValueError(f"{name} has strides {tensor.stride()}; a contiguous tensor is needed")
    if device is not None:
        if tensor.device != device:
            raise ValueError(f"{name} is on {tensor.device}; {device} is needed")
    elif not INTERPRETED:
        _check_launch_device(name, tensor)


def _check_launch_device(name: str, tensor: torch.Tensor) -> None:
    """Raises ValueError unless a kernel launched now would run where `tensor` lies."""
    if not HAS_TRITON:
        raise ValueError(
            "Triton is not installed; the `_ref` function beside the kernel needs none"
        )
    if not tensor.is_cuda:
        raise ValueError(
            f"{name} is on {tensor.device}; a CUDA tensor is needed"
            " (the `_ref` function beside the kernel runs anywhere)"
        )
    if tensor.device.index != torch.cuda.current_device():
        raise ValueError(
            f"{name} is on {tensor.device}, not on the current device"
            f" cuda:{torch.cuda.current_device()}: make it the current one (torch.cuda.device)"
        )
