"""All the networks of one Tempo, and the names of their parameters in its checkpoint."""

from __future__ import annotations

import torch
from torch import nn

from tempo_fast.checkpoint.config import TempoConfig
from tempo_fast.models.decoder import Decoder
from tempo_fast.models.layers import empty
from tempo_fast.models.projector import Projector
from tempo_fast.models.vision import VisionEncoder

TOWER = "model.vision_tower_aux_list.0."


class TempoModel(nn.Module):
    """Vision encoder, compressor, memory tokens, projector and language model, yet to be loaded.

    memory_tokens: [M, D], the embeddings of the memory tokens. yes_minus_no: float32 [D], the
    direction of relevance. lm_head: [vocabulary, E], the embeddings themselves where they are tied.
    """

    def __init__(self, config: TempoConfig, *, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__()
        where = {"device": device, "dtype": dtype}
        self.config = config
        self.vision = VisionEncoder(config.vision, **where)
        self.compressor = Decoder(config.compressor, **where)
        self.memory_tokens = empty(config.memory_tokens, config.compressor.width, **where)
        self.yes_minus_no = empty(config.compressor.width, device=device, dtype=torch.float32)
        self.projector = Projector(config, **where)
        self.language_model = Decoder(config.language_model, **where)
        self.lm_head = (
            self.language_model.embed_tokens
            if config.tied_embeddings
            else empty(config.language_model.vocabulary, config.language_model.width, **where)
        )

    def checkpoint_targets(self) -> dict[str, torch.Tensor]:
        """Name of each parameter in Tempo's checkpoint → the tensor, or part of one, to fill."""
        targets = {
            f"{TOWER}compression_tokens": self.memory_tokens[None],
            **self.vision.checkpoint_targets(f"{TOWER}vlm.model.visual."),
            **self.compressor.checkpoint_targets(f"{TOWER}vlm.model.language_model."),
            **self.projector.checkpoint_targets("model.mm_projector."),
            **self.language_model.checkpoint_targets("model."),
        }
        if not self.config.tied_embeddings:
            targets["lm_head.weight"] = self.lm_head
        return targets

    def set_router(self, rows: torch.Tensor) -> None:
        """Take the base's output rows of Yes and No, [2, D], in their stored dtype."""
        # The published code subtracts before it raises to float32.
        self.yes_minus_no.copy_((rows[0] - rows[1]).float())
