"""The Qwen3 decoder, which serves the compressor and the language model, and its one operation.

`Decoder.extend` appends packed new tokens of many sequences to their cached keys and values and
attends causally to all of it. A prefill, a question on a cached video and a decode step differ only
in how much is new and how much is cached.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from tempo_fast.checkpoint.config import DecoderConfig
from tempo_fast.engine import ops
from tempo_fast.engine.attention import Backend, Site, choose_cached
from tempo_fast.engine.crew import keep_on
from tempo_fast.engine.kv_cache import KVCache, Packing
from tempo_fast.engine.step import Step
from tempo_fast.models.layers import Linear, RMSNorm, empty
from tempo_fast.models.rotary import Rotary

Outputs = Literal["all", "last", "none"]


@dataclass(frozen=True)
class Deepstack:
    """Visual features added to the hidden states after the first layers.

    index: int64 [V], packed positions of the visual tokens. features: [V, D] for each of those
    layers.
    """

    index: torch.Tensor
    features: list[torch.Tensor]


class Attention(nn.Module):
    """Grouped-query attention with per-head RMSNorm of query and key, and fused q, k, v weights."""

    def __init__(self, config: DecoderConfig, backend: Backend, **where) -> None:
        super().__init__()
        self.backend = backend
        self.heads, self.kv_heads = config.heads, config.kv_heads
        packed = (config.heads + 2 * config.kv_heads) * config.head_dim
        self.qkv_proj = Linear(config.width, packed, bias=False, **where)
        self.o_proj = Linear(config.heads * config.head_dim, config.width, bias=False, **where)
        self.q_norm = RMSNorm(config.head_dim, config.rms_eps, **where)
        self.k_norm = RMSNorm(config.head_dim, config.rms_eps, **where)

    def append(
        self,
        normed: torch.Tensor,
        turn: tuple[torch.Tensor, torch.Tensor],
        packing: Packing | Step,
        keys: torch.Tensor,
        values: torch.Tensor,
    ) -> torch.Tensor:
        """Cache the keys and values of normed [T, D]; return its queries [T, heads, head_dim]."""
        return ops.qk_norm_rope(
            self.qkv_proj(normed),
            self.q_norm.weight,
            self.k_norm.weight,
            *turn,
            packing.slots,
            keys,
            values,
            self.q_norm.eps,
            heads=self.heads,
            kv_heads=self.kv_heads,
        )

    def forward(
        self,
        query: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        packing: Packing | Step,
    ) -> torch.Tensor:
        if isinstance(packing, Step) and not self.backend.replayable:
            attended = packing.attend(query, keys, values)
        else:
            attended = self.backend.attend(query, keys, values, packing)
        return self.o_proj(attended.flatten(1))


class MLP(nn.Module):
    """SwiGLU with fused gate and up weights."""

    def __init__(self, config: DecoderConfig, **where) -> None:
        super().__init__()
        self.gate_up_proj = Linear(config.width, 2 * config.ffn, bias=False, **where)
        self.down_proj = Linear(config.ffn, config.width, bias=False, **where)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(ops.swiglu(self.gate_up_proj(x)))


class Layer(nn.Module):
    """A Qwen3 block: attention and MLP, each behind an RMSNorm and added to the residual."""

    def __init__(self, config: DecoderConfig, backend: Backend, **where) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.width, config.rms_eps, **where)
        self.self_attn = Attention(config, backend, **where)
        self.post_attention_layernorm = RMSNorm(config.width, config.rms_eps, **where)
        self.mlp = MLP(config, **where)

    def forward(
        self,
        hidden: torch.Tensor,
        update: torch.Tensor | None,
        turn: tuple[torch.Tensor, torch.Tensor],
        packing: Packing | Step,
        keys: torch.Tensor,
        values: torch.Tensor,
        outputs: Outputs = "all",
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Run on hidden + update [T, D]; return the two parts of its output in the same way.

        The sum is left to the next norm, which reads both anyway.
        """
        hidden, normed = self.input_layernorm.add(hidden, update)
        query = self.self_attn.append(normed, turn, packing, keys, values)
        if outputs == "none":
            return hidden[:0], hidden[:0]
        if outputs == "last":
            query, hidden = query[packing.last], hidden[packing.last]
            packing = packing.only_last()
        attended = self.self_attn(query, keys, values, packing)
        hidden, normed = self.post_attention_layernorm.add(hidden, attended)
        del query, attended  # the MLP needs the room
        return hidden, self.mlp(normed)


class Decoder(nn.Module):
    """A stack of Qwen3 blocks with its token embeddings and final norm.

    attention: the backend that all of them use. Raises OptionError if the one asked for can't run.
    """

    def __init__(self, config: DecoderConfig, *, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__()
        where = {"device": device, "dtype": dtype}
        self.config = config
        self.attention = choose_cached(Site(device, dtype, config.head_dim))
        self.embed_tokens = empty(config.vocabulary, config.width, **where)
        self.layers = nn.ModuleList(
            Layer(config, self.attention, **where) for _ in range(config.layers)
        )
        self.norm = RMSNorm(config.width, config.rms_eps, **where)
        self.rotary = Rotary(config, **where)

    def new_cache(self, sequences: int, capacity: int) -> KVCache:
        """An empty kv cache for this decoder."""
        where = {"device": self.embed_tokens.device, "dtype": self.embed_tokens.dtype}
        return KVCache(self.config, sequences, capacity, **where)

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        """Token embeddings [T, D] of int64 ids [T]."""
        return nn.functional.embedding(ids, self.embed_tokens)

    def extend(
        self,
        hidden: torch.Tensor,
        positions: torch.Tensor,
        packing: Packing,
        cache: KVCache,
        *,
        deepstack: Deepstack | None = None,
        outputs: Outputs = "all",
    ) -> torch.Tensor:
        """Append packed tokens to their sequences in the cache.

        hidden: [T, D], input embeddings. positions: int64 [T], or [3, T] for 3-D rotary positions.
        Returns the hidden states after the last layer and *before* the final norm: of all new
        tokens [T, D], of each sequence's last [n, D], or of none [0, D]; what isn't asked for is
        not computed in the last layer.
        """
        hidden = self.run(hidden, positions, packing, cache.keys, cache.values, deepstack, outputs)
        cache.commit(packing)
        return hidden

    def run(
        self,
        hidden: torch.Tensor,
        positions: torch.Tensor,
        packing: Packing | Step,
        keys: list[torch.Tensor],
        values: list[torch.Tensor],
        deepstack: Deepstack | None = None,
        outputs: Outputs = "all",
    ) -> torch.Tensor:
        """`extend` on the device alone: the cache's lengths are left to the caller.

        keys, values: the cache's, by layer. It can be captured where `packing` is made beforehand.
        """
        turn = self.rotary(positions)
        features = deepstack.features if deepstack is not None else ()
        last, update = len(self.layers) - 1, None
        for i, layer in enumerate(self.layers):
            keep_on()
            wanted = outputs if i == last else "all"
            hidden, update = layer(hidden, update, turn, packing, keys[i], values[i], wanted)
            if i < len(features) and wanted == "all":
                hidden, update = hidden + update, None
                ops.deepstack_add(hidden, deepstack.index, features[i])
        return hidden if update is None else hidden + update

    def checkpoint_targets(self, prefix: str) -> dict[str, torch.Tensor]:
        """Name of each parameter in the checkpoint → the tensor, or part of one, to fill."""
        targets = {
            f"{prefix}embed_tokens.weight": self.embed_tokens,
            f"{prefix}norm.weight": self.norm.weight,
        }
        for i, layer in enumerate(self.layers):
            for name, tensor in layer.named_parameters(prefix=f"{prefix}layers.{i}"):
                targets.update(self._unfused(name, tensor))
        return targets

    def _unfused(self, name: str, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
        """A fused weight's parts under the checkpoint's names; any other as it is."""
        config = self.config
        if "qkv_proj" in name:
            q, kv = config.heads * config.head_dim, config.kv_heads * config.head_dim
            parts = zip("qkv", tensor.split((q, kv, kv)), strict=True)
            return {name.replace("qkv_proj", f"{part}_proj"): rows for part, rows in parts}
        if "gate_up_proj" in name:
            parts = zip(("gate", "up"), tensor.chunk(2), strict=True)
            return {name.replace("gate_up_proj", f"{part}_proj"): rows for part, rows in parts}
        return {name: tensor}
