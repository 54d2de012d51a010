"""Attention: one interface for each of two jobs, and the backends behind it.

*Cached* attention is the decoders': packed queries of n sequences of any lengths against their rows
of the kv cache, causally aligned to the end of each row (bottom-right), or fully. *Dense* attention
is the vision encoder's: full attention within each of n equally long sequences.

A network takes its backend when it is made, by `choose_cached` or `choose_dense`: the first that
can run on its device, dtype and head size, or the one that TEMPO_FAST_ATTENTION (cached) and
TEMPO_FAST_VISION_ATTENTION (dense) name. Plain SDPA is what the others are compared with, and what
float32 takes where they name one of half precision.
"""

from tempo_fast.engine.attention.backend import Backend, Site
from tempo_fast.engine.attention.choice import (
    CACHED,
    DENSE,
    availability,
    choose_cached,
    choose_dense,
)

__all__ = ["CACHED", "DENSE", "Backend", "Site", "availability", "choose_cached", "choose_dense"]
