"""What was learnt, as a checkpoint folder that needs nothing else."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from tempo_fast.checkpoint.convert import convert
from tempo_fast.checkpoint.files import ROUTER_FILE
from tempo_fast.checkpoint.router import save_router
from tempo_fast.models.tempo import TempoModel

from .recipe import BASE_NAME, tempo_config

# Limits of a single image: the base's preprocessor settings.
IMAGE_LIMITS = {"size": {"shortest_edge": 65536, "longest_edge": 16777216}}


def export(
    model: TempoModel, router: Tensor, tokenizer: PreTrainedTokenizerFast, destination: Path
) -> Path:
    """Write a trained model in bfloat16 as a self-contained checkpoint; return its folder.

    router: [2, D], the base's rows of Yes and No. Raises CheckpointError when `destination` exists
    and isn't an empty folder.
    """
    tempo, base = tempo_config(tokenizer)
    weights = {
        name: target.detach().to(torch.bfloat16).contiguous().clone()
        for name, target in model.checkpoint_targets().items()
    }
    with tempfile.TemporaryDirectory() as scratch:
        for name, config in (("tempo", tempo), (BASE_NAME, base)):
            folder = Path(scratch) / name
            folder.mkdir()
            (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
            tokenizer.save_pretrained(folder)
        beside = Path(scratch) / BASE_NAME
        (beside / "preprocessor_config.json").write_text(json.dumps(IMAGE_LIMITS) + "\n")
        save_router(beside / ROUTER_FILE, router)
        save_file(weights, Path(scratch) / "tempo" / "model.safetensors", metadata={"format": "pt"})
        return convert(Path(scratch) / "tempo", destination, base=beside)
