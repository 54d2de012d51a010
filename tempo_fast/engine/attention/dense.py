"""PyTorch's SDPA held to one of its fused kernels, cuDNN's or FlashAttention-2, for dense batches.

PyTorch left to itself picks by its own order, which changes from release to release.
"""

from __future__ import annotations

import warnings
from functools import partial

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from tempo_fast.engine.attention.backend import Backend, Site, lacks_gpu

# From which on PyTorch takes cuDNN's by itself: before, lengths that are no multiple of 128 went
# wrong in it (pytorch issue 169849), and PyTorch doesn't refuse to be told to.
OLDEST_CUDNN = 91501
OTHERS = [
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]


def _attend(
    kernel: SDPBackend, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
) -> torch.Tensor:
    """As `Backend` has it."""
    q, k, v = (x.transpose(1, 2) for x in (query, key, value))
    # The switch is the whole process's: the others stay allowed, for what another thread runs.
    with sdpa_kernel([kernel, *OTHERS], set_priority=True):
        return scaled_dot_product_attention(q, k, v).transpose(1, 2)


def _cudnn_missing(site: Site) -> str | None:
    lacking = lacks_gpu(site, 8) or _lacks_cudnn()
    return lacking or _missing("can_use_cudnn_attention", site)


def _lacks_cudnn() -> str | None:
    if not torch.backends.cudnn.is_available():
        return "needs a PyTorch built with cuDNN"
    try:
        found = torch.backends.cudnn.version()
    except RuntimeError as error:  # another cuDNN is found than PyTorch was built for
        return f"needs the cuDNN that PyTorch comes with ({error})"
    if found < OLDEST_CUDNN:
        return f"needs cuDNN {_dotted(OLDEST_CUDNN)} or newer; this one is {_dotted(found)}"
    return None


def _dotted(version: int) -> str:
    """cuDNN 9's number of its version, as its releases are called."""
    return f"{version // 10_000}.{version // 100 % 100}.{version % 100}"


def _missing(can_use: str, site: Site) -> str | None:
    lacking = lacks_gpu(site, 8)
    if lacking is not None:
        return lacking
    with warnings.catch_warnings(record=True) as reasons:
        warnings.simplefilter("always")
        if getattr(torch.backends.cuda, can_use)(_sample(site), True):
            return None
    why = "; ".join(str(reason.message) for reason in reasons)
    return f"PyTorch can't use it here ({why or 'it gives no reason'})"


def _sample(site: Site) -> torch.backends.cuda.SDPAParams:
    """A frame pair's attention, for PyTorch to judge by."""
    x = torch.empty(1, 1, 128, site.head_dim, device=site.device, dtype=torch.bfloat16)
    return torch.backends.cuda.SDPAParams(x, x, x, None, 0.0, False, False)


CUDNN = Backend(
    "cudnn",
    partial(_attend, SDPBackend.CUDNN_ATTENTION),
    _cudnn_missing,
)
FLASH = Backend(
    "flash",
    partial(_attend, SDPBackend.FLASH_ATTENTION),
    partial(_missing, "can_use_flash_attention"),
)
