"""From a folder or hub id to the tensors of a Tempo: files, sizes, weights, relevance rows."""

from tempo_fast.checkpoint.config import DecoderConfig, TempoConfig, VisionConfig, read_config
from tempo_fast.checkpoint.convert import convert
from tempo_fast.checkpoint.files import CheckpointFiles, resolve
from tempo_fast.checkpoint.router import read_router
from tempo_fast.checkpoint.storage import read_json
from tempo_fast.checkpoint.weights import load_weights, stored_dtype

__all__ = [
    "CheckpointFiles",
    "DecoderConfig",
    "TempoConfig",
    "VisionConfig",
    "convert",
    "load_weights",
    "read_config",
    "read_json",
    "read_router",
    "resolve",
    "stored_dtype",
]
