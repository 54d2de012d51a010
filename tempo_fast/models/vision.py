"""The Qwen3-VL vision encoder: patches of frame pairs to visual tokens.

Every temporal patch (a pair of frames) attends only to itself and all have the same size, so they
run as one dense batch; positions depend on the grid alone and are made once per grid.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import gelu

from tempo_fast.checkpoint.config import VisionConfig
from tempo_fast.engine import ops
from tempo_fast.engine.attention import Backend, Site, choose_dense
from tempo_fast.engine.crew import keep_on
from tempo_fast.models.layers import LayerNorm, Linear, empty, parameters_by_name
from tempo_fast.models.rotary import rotary_frequencies

EPS = 1e-6
THETA = 10000.0


class Attention(nn.Module):
    """Multi-head attention within one temporal patch, rotated in float32 by row and column."""

    def __init__(self, config: VisionConfig, backend: Backend, **where) -> None:
        super().__init__()
        self.attend = backend.attend
        self.heads = config.heads
        self.qkv = Linear(config.width, 3 * config.width, **where)
        self.proj = Linear(config.width, config.width, **where)

    def forward(self, x: torch.Tensor, turn: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        q, k, v = ops.vision_rope(self.qkv(x), *turn, heads=self.heads)
        return self.proj(self.attend(q, k, v).flatten(2))


class MLP(nn.Module):
    """fc1, GELU (in its tanh form or exact), fc2."""

    def __init__(self, sizes: tuple[int, int, int], *, tanh: bool, **where) -> None:
        super().__init__()
        inputs, hidden, outputs = sizes
        self.linear_fc1 = Linear(inputs, hidden, **where)
        self.linear_fc2 = Linear(hidden, outputs, **where)
        self.tanh = tanh

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = self.linear_fc1
        if self.tanh:
            return self.linear_fc2(ops.linear_gelu_tanh(x, first.weight, first.bias))
        return self.linear_fc2(gelu(first(x)))


class Block(nn.Module):
    """A transformer block with LayerNorm before attention and MLP."""

    def __init__(self, config: VisionConfig, backend: Backend, **where) -> None:
        super().__init__()
        self.norm1 = LayerNorm(config.width, EPS, **where)
        self.norm2 = LayerNorm(config.width, EPS, **where)
        self.attn = Attention(config, backend, **where)
        self.mlp = MLP((config.width, config.ffn, config.width), tanh=True, **where)

    def forward(
        self,
        x: torch.Tensor,
        update: torch.Tensor | None,
        turn: tuple[torch.Tensor, torch.Tensor],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Run on x + update; return the two parts of its output, whose sum the next norm makes."""
        x, normed = self.norm1.add(x, update)
        x, normed = self.norm2.add(x, self.attn(normed, turn))
        return x, self.mlp(normed)


class Merger(MLP):
    """merge × merge neighbouring patches to one visual token, normed one by one or all at once."""

    def __init__(self, config: VisionConfig, *, norm_merged: bool, **where) -> None:
        self.merged = config.width * config.merge**2
        super().__init__((self.merged, self.merged, config.out_width), tanh=False, **where)
        self.norm = LayerNorm(self.merged if norm_merged else config.width, EPS, **where)
        self.norm_merged = norm_merged

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.norm_merged:
            return super().forward(self.norm(x.reshape(*x.shape[:-2], -1, self.merged)))
        return super().forward(self.norm(x).reshape(*x.shape[:-2], -1, self.merged))


class PatchEmbedding(nn.Module):
    """The linear map of one patch's pixels [..., channels · time · rows · columns]."""

    def __init__(self, config: VisionConfig, **where) -> None:
        super().__init__()
        size = (config.channels, config.temporal_patch, config.patch, config.patch)
        self.weight = empty(config.width, *size, **where)
        self.bias = empty(config.width, **where)

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        return ops.linear(patches, self.weight.flatten(1), self.bias)


class VisionEncoder(nn.Module):
    """Patches [n, P, pixels] of n temporal patches to visual tokens [n, P / merge², out_width]."""

    def __init__(self, config: VisionConfig, *, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__()
        where = {"device": device, "dtype": dtype}
        self.config = config
        self.attention = choose_dense(Site(device, dtype, config.width // config.heads))
        self.patch_embed = nn.ModuleDict({"proj": PatchEmbedding(config, **where)})
        self.pos_embed = nn.ParameterDict(
            {"weight": empty(config.positions, config.width, **where)}
        )
        self.blocks = nn.ModuleList(
            Block(config, self.attention, **where) for _ in range(config.layers)
        )
        self.merger = Merger(config, norm_merged=False, **where)
        self.deepstack_merger_list = nn.ModuleList(
            Merger(config, norm_merged=True, **where) for _ in config.deepstack
        )
        self._tables: dict[tuple[int, int], tuple[torch.Tensor, ...]] = {}

    def _grid_tables(self, h: int, w: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Position embeddings [P, width] and rotary cos, sin float32 [P, head_dim] of a grid."""
        weight, merge = self.pos_embed.weight, self.config.merge
        patch = torch.arange(h * w, device=weight.device).view(h // merge, merge, w // merge, merge)
        order = patch.transpose(1, 2).flatten()
        place = torch.stack((order // w, order % w), -1)
        # Half of the frequencies turn with the row, half with the column. The published code
        # carries them through float16.
        half = self.config.width // self.config.heads // 2
        frequency = rotary_frequencies(half, THETA, weight.device, through_float16=True)
        angle = (place[..., None].float() * frequency).flatten(1)
        angle = torch.cat((angle, angle), -1)
        return ops.grid_table(weight, h, w, merge=merge), angle.cos(), angle.sin()

    def new_patches(self, count: int, grid: tuple[int, int]) -> torch.Tensor:
        """Room for the patches of `count` temporal patches of one grid, uninitialised."""
        weight = self.patch_embed["proj"].weight
        return weight.new_empty(count, grid[0] * grid[1], weight[0].numel())

    def embed(self, patches: torch.Tensor) -> torch.Tensor:
        """Patches [n, P, pixels] to [n, P, width], without their positions."""
        return self.patch_embed["proj"](patches)

    def forward(
        self, patches: torch.Tensor, grid: tuple[int, int]
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """`encode` of patches [n, P, pixels]."""
        return self.encode(self.embed(patches), grid)

    def encode(
        self, embedded: torch.Tensor, grid: tuple[int, int]
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Encode n temporal patches of one grid.

        embedded: [n, P, width] with P = h · w of grid (h, w), in merge-block order. Returns the
        visual tokens [n, P / merge², out_width] and the deepstack features, one such tensor a
        deepstack layer.
        """
        tables = self._tables.get(grid)
        if tables is None:  # another thread may put those of another grid there
            tables = self._grid_tables(*grid)
            self._tables = {grid: tables}
        table, *turn = tables
        x = embedded + table
        update, features = None, []
        for i, block in enumerate(self.blocks):
            keep_on()
            x, update = block(x, update, turn)
            if i in self.config.deepstack:
                x, update = x + update, None
                merger = self.deepstack_merger_list[self.config.deepstack.index(i)]
                features.append(merger(x))
        return self.merger(x if update is None else x + update), features

    def checkpoint_targets(self, prefix: str) -> dict[str, torch.Tensor]:
        """Where each parameter of the checkpoint goes."""
        return parameters_by_name(self, prefix)
