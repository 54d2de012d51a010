"""The networks of a Tempo as Hugging Face's modules, from a checkpoint or from tensors at hand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from safetensors.torch import load_file
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3VLConfig,
    Qwen3VLModel,
)
from transformers.utils import is_flash_attn_2_available

from tempo_fast.checkpoint.files import CheckpointFiles
from tempo_fast.checkpoint.router import read_router
from tempo_fast.checkpoint.storage import read_json

TOWER = "model.vision_tower_aux_list.0."
PROJECTOR = "model.mm_projector."


@dataclass(frozen=True)
class Networks:
    """vision_language: vision encoder and compressor. memory_tokens: [M, D]. yes_minus_no: float32
    [D]. projector: [..., D] to [..., E]. language_model: with its output layer."""

    vision_language: Qwen3VLModel
    memory_tokens: torch.Tensor
    yes_minus_no: torch.Tensor
    projector: nn.Module
    language_model: Qwen3ForCausalLM


def read_networks(
    files: CheckpointFiles, device: torch.device, dtype: torch.dtype, attention: str | None = None
) -> Networks:
    """The networks of a checkpoint folder; attention: as for `build_networks`."""
    weights = {}
    for shard in files.weights:
        weights |= {n: t.to(device, dtype) for n, t in load_file(shard).items()}
    rows = read_router(files)
    return build_networks(
        read_json(files.tempo / "config.json"),
        read_json(files.base / "config.json"),
        weights,
        (rows[0] - rows[1]).float().to(device),
        attention,
    )


def build_networks(
    tempo: dict,
    base: dict,
    weights: Mapping[str, torch.Tensor],
    yes_minus_no: torch.Tensor,
    attention: str | None = None,
) -> Networks:
    """The networks around tensors that exist, on their device and in their dtype, not copied.

    tempo, base: the two `config.json`. weights: by their names in Tempo's checkpoint, such as the
    engine's own `TempoModel.checkpoint_targets()`. yes_minus_no: float32 [D]. attention: Hugging
    Face's name of an implementation; by default FlashAttention 2 on CUDA where it is installed,
    else SDPA.
    """
    memory = weights[f"{TOWER}compression_tokens"]
    if attention is None:
        flash = memory.is_cuda and is_flash_attn_2_available()
        attention = "flash_attention_2" if flash else "sdpa"
    with torch.device(memory.device):
        how = {"dtype": memory.dtype, "attn_implementation": attention}
        vision_language = AutoModel.from_config(Qwen3VLConfig.from_dict(base), **how)
        language_model = AutoModelForCausalLM.from_config(_language_config(tempo), **how)
    _load(vision_language, _under(f"{TOWER}vlm.model.", weights))
    language = {n: t for n, t in weights.items() if not n.startswith((TOWER, PROJECTOR))}
    _load(language_model, language)
    # The published code carries these frequencies through float16.
    vision, decoder = vision_language.visual, vision_language.language_model
    for rotary in (vision.rotary_pos_emb, decoder.rotary_emb):
        rotary.inv_freq = rotary.inv_freq.half().float()
    return Networks(
        vision_language=vision_language,
        memory_tokens=memory[0],
        yes_minus_no=yes_minus_no,
        projector=_projector(_under(PROJECTOR, weights)),
        language_model=language_model,
    )


def _language_config(tempo: dict) -> Qwen3Config:
    # Tempo's own rope_scaling is ignored: its language model always has plain rotary positions.
    known = {name: value for name, value in tempo.items() if name != "rope_scaling"}
    return Qwen3Config.from_dict({**known, "model_type": "qwen3"})


def _under(prefix: str, weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {n.removeprefix(prefix): t for n, t in weights.items() if n.startswith(prefix)}


def _load(model: nn.Module, weights: dict[str, torch.Tensor]) -> None:
    tied = hasattr(model, "lm_head") and model.config.tie_word_embeddings
    if tied:
        weights = {**weights, "lm_head.weight": weights["model.embed_tokens.weight"]}
    model.load_state_dict(weights, assign=True)
    if tied:
        model.tie_weights()
    model.eval().requires_grad_(False)


def _projector(weights: dict[str, torch.Tensor]) -> nn.Module:
    """`linear`, `mlpNx_gelu` or `identity`, whichever has these parameters."""
    places = {name.rpartition(".")[0] for name in weights}
    layers: list[nn.Module] = []
    for place in sorted(places, key=lambda place: int(place or 0)):
        part = _under(f"{place}." if place else "", weights)
        outputs, inputs = part["weight"].shape
        layer = nn.Linear(inputs, outputs, device="meta")
        layer.load_state_dict(part, assign=True)
        layers += [nn.GELU()] * bool(layers) + [layer.requires_grad_(False)]
    return nn.Sequential(*layers)
