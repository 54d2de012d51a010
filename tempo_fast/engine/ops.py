"""The operations that have a Triton kernel, and the one place that chooses kernel or plain path.

Each has a kernel's launcher and a plain PyTorch reference with the same arguments, side by side in
`tempo_kernels`, where they are described. `set_kernels` says which of the two run:

  auto    kernels for CUDA tensors where Triton is installed, references otherwise (the default).
  triton  kernels always; on a CPU that needs Triton's interpreter (TRITON_INTERPRET=1).
          (Where one has a limit on segments, the reference runs beyond it.)
  torch   references always.

The environment variable TEMPO_FAST_KERNELS sets it for a whole process. `linear` has no kernel:
matrix products are left to the libraries, and `auto` takes the faster one.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import wraps

import torch

from tempo_fast import onednn
from tempo_fast.errors import OptionError
from tempo_kernels.allocate import allocate, allocate_ref
from tempo_kernels.assemble import assemble, assemble_ref
from tempo_kernels.deepstack_add import deepstack_add, deepstack_add_ref
from tempo_kernels.gelu_tanh import gelu_tanh, gelu_tanh_ref
from tempo_kernels.greedy import greedy, greedy_ref
from tempo_kernels.grid_table import grid_table, grid_table_ref
from tempo_kernels.launch import HAS_TRITON, INTERPRETED
from tempo_kernels.layer_norm import add_layer_norm, add_layer_norm_ref, layer_norm, layer_norm_ref
from tempo_kernels.packing import MAX_SEGMENTS
from tempo_kernels.preprocess import preprocess, preprocess_ref
from tempo_kernels.qk_norm_rope import qk_norm_rope, qk_norm_rope_ref
from tempo_kernels.relevance import relevance, relevance_ref
from tempo_kernels.relevance_allocate import relevance_allocate, relevance_allocate_ref
from tempo_kernels.rms_norm import add_rms_norm, add_rms_norm_ref, rms_norm, rms_norm_ref
from tempo_kernels.rope_tables import rope_tables, rope_tables_ref
from tempo_kernels.sample import sample, sample_ref
from tempo_kernels.select import select, select_ref
from tempo_kernels.swiglu import swiglu, swiglu_ref
from tempo_kernels.vision_rope import vision_rope, vision_rope_ref

MODES = ("auto", "triton", "torch")


def set_kernels(mode: str) -> str:
    """Choose what the operations run on from now on; return what was chosen before.

    Raises OptionError for an unknown mode, and for "triton" where no kernel can run.
    """
    global _mode
    if mode not in MODES:
        raise OptionError(f"kernels must be {', '.join(MODES)}; got {mode!r}")
    if mode == "triton" and not (HAS_TRITON and (INTERPRETED or torch.cuda.is_available())):
        raise OptionError(
            "no Triton kernel can run here: it needs Triton and a CUDA device, or "
            "TRITON_INTERPRET=1 for its interpreter; choose auto or torch"
        )
    before, _mode = _mode, mode
    return before


def uses_kernels(device: torch.device) -> bool:
    """Whether tensors on this device go through the kernels."""
    if _mode == "auto":
        return HAS_TRITON and device.type == "cuda"
    return _mode == "triton"


def _operation(kernel: Callable, plain: Callable, segments: int | None = None) -> Callable:
    """An operation that runs as `kernel` or as `plain`, by the device of its first argument.

    segments: which argument has a value for each segment, where the kernel has a limit on them.
    """

    @wraps(kernel)
    def run(*args, **kwargs):
        device = args[0].device
        fits = segments is None or len(args[segments]) <= MAX_SEGMENTS
        if not (fits and uses_kernels(device)):
            return plain(*args, **kwargs)
        if device.type == "cuda" and device.index != torch.cuda.current_device():
            with torch.cuda.device(device):  # where Triton launches
                return kernel(*args, **kwargs)
        return kernel(*args, **kwargs)

    return run


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """x Wᵀ + b: [..., out] of x [..., in], weight [out, in] and bias [out]."""
    if _mode == "auto" and onednn.takes(x, weight, bias):
        return onednn.linear(x, weight, bias)
    return torch.nn.functional.linear(x, weight, bias)


def linear_gelu_tanh(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """GELU, in its tanh form, of what `linear` gives."""
    if _mode == "auto" and onednn.takes(x, weight, bias):
        return onednn.linear(x, weight, bias, gelu_tanh=True)
    return gelu_tanh(linear(x, weight, bias))


_mode = "auto"
set_kernels(os.environ.get("TEMPO_FAST_KERNELS", "auto"))

rms_norm = _operation(rms_norm, rms_norm_ref)
add_rms_norm = _operation(add_rms_norm, add_rms_norm_ref)
layer_norm = _operation(layer_norm, layer_norm_ref)
add_layer_norm = _operation(add_layer_norm, add_layer_norm_ref)
qk_norm_rope = _operation(qk_norm_rope, qk_norm_rope_ref)
rope_tables = _operation(rope_tables, rope_tables_ref)
vision_rope = _operation(vision_rope, vision_rope_ref)
swiglu = _operation(swiglu, swiglu_ref)
gelu_tanh = _operation(gelu_tanh, gelu_tanh_ref)
deepstack_add = _operation(deepstack_add, deepstack_add_ref)
grid_table = _operation(grid_table, grid_table_ref)
preprocess = _operation(preprocess, preprocess_ref)
relevance = _operation(relevance, relevance_ref)
allocate = _operation(allocate, allocate_ref)
relevance_allocate = _operation(relevance_allocate, relevance_allocate_ref)
select = _operation(select, select_ref, segments=1)
assemble = _operation(assemble, assemble_ref, segments=5)
greedy = _operation(greedy, greedy_ref)
sample = _operation(sample, sample_ref)
