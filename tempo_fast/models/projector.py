"""The projector: memory tokens of the compressor's width to the language model's."""

from __future__ import annotations

import re

import torch
from torch import nn

from tempo_fast.checkpoint.config import TempoConfig
from tempo_fast.errors import CheckpointError
from tempo_fast.models.layers import Linear, parameters_by_name


class Projector(nn.Sequential):
    """`linear`, `mlpNx_gelu` (N linear maps with exact GELUs between) or `identity`."""

    def __init__(self, config: TempoConfig, *, device: torch.device, dtype: torch.dtype) -> None:
        inputs, outputs = config.compressor.width, config.language_model.width
        mlp = re.fullmatch(r"mlp([1-9]\d*)x_gelu", config.projector)
        if config.projector == "identity":
            if inputs != outputs:
                raise CheckpointError(
                    f"mm_projector_type 'identity' needs equal widths; the compressor has {inputs} "
                    f"and the language model {outputs}"
                )
            depth = 0
        elif config.projector == "linear":
            depth = 1
        elif mlp:
            depth = int(mlp[1])
        else:
            raise CheckpointError(
                f"mm_projector_type {config.projector!r} is not known; "
                "it should be linear, mlpNx_gelu or identity"
            )
        layers: list[nn.Module] = []
        for i in range(depth):
            layers += [nn.GELU()] if i else []
            layers.append(Linear(outputs if i else inputs, outputs, device=device, dtype=dtype))
        super().__init__(*layers)
        self.kind = config.projector

    def checkpoint_targets(self, prefix: str) -> dict[str, torch.Tensor]:
        """Where each parameter of the checkpoint goes; a `linear` projector's have no number."""
        if self.kind == "linear":
            return parameters_by_name(self[0], prefix)
        return parameters_by_name(self, prefix)
