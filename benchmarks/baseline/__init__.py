"""What the engine is measured against: the published data flow on Hugging Face's own modules.

Every question starts again from the frames: Pillow resizes them one by one, the processor's
arithmetic makes float32 patches segment by segment, one padded batch holds all segments with all
their memory tokens, and `generate()` answers with a dynamic cache.
"""

from .answer import Baseline, BaselineAnswer
from .networks import Networks, build_networks, read_networks
from .segments import SegmentBatch, make_patches, prepare

__all__ = [
    "Baseline",
    "BaselineAnswer",
    "Networks",
    "SegmentBatch",
    "build_networks",
    "make_patches",
    "prepare",
    "read_networks",
]
