"""Which backend a network takes: the first that can run, or the one that a variable names."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch

from tempo_fast import onednn
from tempo_fast.engine.attention import dense, fa2, fa3, plain, unfused, varlen
from tempo_fast.engine.attention.backend import Backend, Site
from tempo_fast.errors import OptionError

# `auto` takes the first that can run. varlen is FlashAttention-2's kernel too, and unlike fa2 it
# copies no keys for ragged queries.
CACHED = (fa3.CACHED, varlen.CACHED, fa2.CACHED, unfused.CACHED, plain.CACHED)
DENSE = (fa3.DENSE, dense.CUDNN, fa2.DENSE, dense.FLASH, unfused.DENSE, plain.DENSE)
# FlashAttention-2 was made for the GPUs before Hopper.
DENSE_BEFORE_HOPPER = (fa2.DENSE, dense.FLASH, dense.CUDNN, plain.DENSE)
# Those that run in more than half precision.
MORE = ("onednn", "sdpa")

CACHED_VARIABLE = "TEMPO_FAST_ATTENTION"
DENSE_VARIABLE = "TEMPO_FAST_VISION_ATTENTION"
HALF = (torch.bfloat16, torch.float16)


def choose_cached(site: Site) -> Backend:
    """The decoders' backend at a site.

    Raises OptionError if TEMPO_FAST_ATTENTION names none, or one that can't run there.
    """
    return _choose(CACHED, CACHED, CACHED_VARIABLE, site)


def choose_dense(site: Site) -> Backend:
    """The vision encoder's backend at a site.

    Raises OptionError if TEMPO_FAST_VISION_ATTENTION names none, or one that can't run there.
    """
    hopper = site.device.type != "cuda" or torch.cuda.get_device_capability(site.device)[0] >= 9
    order = DENSE if hopper else DENSE_BEFORE_HOPPER
    return _choose(DENSE, order, DENSE_VARIABLE, site)


def availability(backends: Sequence[Backend], site: Site) -> dict[str, str]:
    """Each backend's name, with "available" or with what it lacks at the site."""
    return {backend.name: backend.missing(site) or "available" for backend in backends}


def _choose(
    backends: Sequence[Backend], order: Sequence[Backend], variable: str, site: Site
) -> Backend:
    named = os.environ.get(variable, "auto")
    known = {backend.name: backend for backend in backends}
    if named != "auto" and named not in known:
        raise OptionError(f"{variable} must be auto, {', '.join(known)}; got {named!r}")
    plainest = backends[-1]
    fitting = MORE if site.dtype not in HALF else known
    # A model on the meta device has shapes, and nothing runs on it.
    if site.device.type == "meta":
        return plainest
    if named != "auto":
        lacking = known[named].missing(site)
        if lacking is not None:
            raise OptionError(
                f"{variable}={named} can't run on {site.device}: {lacking} (auto takes what can)"
            )
        return known[named] if named in fitting else plainest
    # Whether it is faster too where MKL is at its best was not measured.
    passed_over = () if onednn.AMD else ("onednn",)
    wanted = (each for each in order if each.name in fitting and each.name not in passed_over)
    return next(each for each in wanted if each.missing(site) is None)
