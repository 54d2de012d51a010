"""The engine's own networks, run in a way that gradients flow through.

Weights, vision encoder, projector, rotary tables and norms are those of `tempo_fast.models`. The
decoders' attention is written again: the engine appends to a kv cache in place, which can't be
differentiated. A test holds the two against each other.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy, embedding, linear, scaled_dot_product_attention

from tempo_fast.compression.prompt import SegmentPrompt
from tempo_fast.demo.film import MOST_COPIES
from tempo_fast.demo.shapes import COLOURS, SHAPES
from tempo_fast.models.decoder import Attention, Decoder
from tempo_fast.models.tempo import TempoModel

from .batches import IGNORE, MEMORY_PLACE, PAD, Batch
from .recipe import SIDE, WINDOW

CELL_CLASSES = (len(COLOURS) + 1, len(SHAPES) + 1)
TOLD_CLASSES = (len(COLOURS), len(SHAPES), MOST_COPIES)
TELLING = 4  # memory tokens that `told` looks at: the published least of a segment
Past = list[tuple[Tensor, Tensor]]
GRID = (SIDE // 16, SIDE // 16)


def initialise(model: TempoModel, generator: torch.Generator) -> None:
    """Random weights to start from, ready to be trained."""
    for name, weight in model.named_parameters():
        with torch.no_grad():
            if weight.ndim == 1:
                weight.fill_(0.0 if name.endswith("bias") else 1.0)
            else:  # drawn on the CPU: the same on every device
                drawn = torch.randn(weight.shape, generator=generator)
                weight.copy_(drawn * weight[0].numel() ** -0.5)
            if name.endswith(("o_proj.weight", "down_proj.weight", "proj.weight", "fc2.weight")):
                weight.mul_(0.5)  # what is added to the residual starts small
        weight.requires_grad_(name != "yes_minus_no")


def patches(frames: Tensor) -> Tensor:
    """uint8 [N, WINDOW, SIDE, SIDE, 3] to normalized patches [N · WINDOW / 2, P, 1536].

    In merge-block order, as `ops.preprocess` gives them where nothing is to be resized.
    """
    n, side = len(frames), SIDE // 32
    values = (frames.float() - 127.5) / 127.5
    blocks = values.view(n, -1, 2, side, 2, 16, side, 2, 16, 3)
    # [n, pairs, block row, block column, row, column, channel, frame, y, x]
    return blocks.permute(0, 1, 3, 6, 4, 7, 9, 2, 5, 8).reshape(-1, GRID[0] * GRID[1], 1536)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat((-second, first), -1) * sin


def _heads(attention: Attention, normed: Tensor, turn: tuple[Tensor, Tensor]):
    """Queries, keys and values [B, heads, T, head_dim] of normed [B, T, D]."""
    cos, sin = (table.unsqueeze(-2) for table in turn)
    heads = attention.qkv_proj(normed).unflatten(-1, (attention.heads + 2 * attention.kv_heads, -1))
    q, k, v = heads.split((attention.heads, attention.kv_heads, attention.kv_heads), -2)
    q = _rotate(attention.q_norm(q.float()), cos, sin)
    k = _rotate(attention.k_norm(k.float()), cos, sin)
    return (x.transpose(1, 2) for x in (q, k, v))


def decode(
    decoder: Decoder,
    hidden: Tensor,
    positions: Tensor,
    mask: Tensor | None,
    *,
    past: Past | None = None,
    visual: tuple[Tensor, list[Tensor]] | None = None,
) -> tuple[Tensor, Past]:
    """Hidden states [B, T, D] before the final norm, and each layer's keys and values.

    hidden: input embeddings. positions: int64 [B, T] or [3, B, T]. mask: 0 or -inf [B, 1, T, past +
    T], None for plain causal. past: keys and values of one sequence before all of these. visual:
    index into the B · T tokens, and what is added there after each of the first layers.
    """
    batch, length, width = hidden.shape
    turn = decoder.rotary(positions.flatten(-2))
    turn = tuple(table.view(batch, length, -1) for table in turn)
    features = visual[1] if visual is not None else ()
    made: Past = []
    for i, layer in enumerate(decoder.layers):
        normed = layer.input_layernorm(hidden)
        q, k, v = _heads(layer.self_attn, normed, turn)
        made.append((k, v))
        if past is not None:
            k, v = (
                torch.cat((old.expand(batch, -1, -1, -1), new), 2)
                for old, new in zip(past[i], (k, v), strict=True)
            )
        # In float32, whose backward was about twice as fast on a CPU as bfloat16's.
        with torch.autocast(hidden.device.type, enabled=False):
            attended = scaled_dot_product_attention(
                q.float(),
                k.float(),
                v.float(),
                attn_mask=mask,
                is_causal=mask is None,
                enable_gqa=True,
            )
        hidden = hidden + layer.self_attn.o_proj(attended.transpose(1, 2).flatten(2))
        hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
        if i < len(features):
            flat = hidden.flatten(0, 1).index_add(0, visual[0], features[i].to(hidden.dtype))
            hidden = flat.view(batch, length, width)
    return hidden, made


def _classify(scores: Tensor, labels: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """Sum of the mean losses of several classifications: scores [..., Σ sizes], labels [..., n]."""
    losses = [
        cross_entropy(part.flatten(0, -2), label.flatten(), ignore_index=IGNORE, reduction="sum")
        / (label != IGNORE).sum().clamp(min=1)
        for part, label in zip(scores.split(sizes, -1), labels.unbind(-1), strict=True)
    ]
    return torch.stack(losses).sum()


class Losses(nn.Module):
    """A Tempo and, for its training alone, three heads that say what it has seen.

    cells: colour and shape in a cell of a frame, from its visual token or, of a segment, from the
    memory token of the cell's index, but not from the first of them. numbers: how many copies there
    are of what a visual token shows. told: colour, shape and number of what a question is about,
    from those first memory tokens of a relevant segment.
    """

    def __init__(self, model: TempoModel, prompt: SegmentPrompt) -> None:
        super().__init__()
        self.model = model
        self.video_pad = prompt.pad_token
        width = model.config.compressor.width
        self.cells = nn.Linear(width, sum(CELL_CLASSES))
        self.told = nn.Linear(width, sum(TOLD_CLASSES))
        self.numbers = nn.Linear(width, MOST_COPIES)
        self.register_buffer("system", torch.tensor(prompt.system), persistent=False)

    def forward(self, batch: Batch, learns: str = "all") -> dict[str, Tensor]:
        """`answer`, `relevance`, `cells`, `told`, `numbers` and, in a deep step, `details`, each a
        mean loss.

        Also `right` [films · Q], whether every token of the answer is the likeliest, and `scores`
        [N, Q], the logits of the relevance. learns: as of a Stage; "vision" makes `cells` and
        `numbers` alone, "language" makes no gradients of encoder and compressor.
        """
        with batch["frames"].device:  # where new tensors are made
            if learns == "vision":
                return self._seen(self._see(batch["frames"])[0], batch)
            return self._forward(batch, learns)

    def _seen(self, tokens: Tensor, batch: Batch) -> dict[str, Tensor]:
        """How well visual tokens [pairs, CELLS², D] tell what they show; most show nothing."""
        tokens, labels = tokens.float(), batch["cells"]
        copies = (labels[..., 2:] - 1).where(labels[..., :1] > 0, IGNORE)
        return {
            "cells": self._described(tokens, labels[..., :2]),
            "numbers": _classify(self.numbers(tokens), copies, (MOST_COPIES,)),
        }

    def _described(self, tokens: Tensor, labels: Tensor) -> Tensor:
        """How well tokens tell colour and shape [..., 2] of a cell, one that shows nothing too."""
        scores, shown = self.cells(tokens), labels[..., :1] > 0
        return _classify(scores, labels.where(shown, IGNORE), CELL_CLASSES) + _classify(
            scores, labels.where(~shown, IGNORE), CELL_CLASSES
        )

    def _detailed(self, memory: Tensor, batch: Batch) -> dict[str, Tensor]:
        """How well each memory token [N, Q, K, D] behind the least tells what its cell shows.

        The cell of the token's own index (there are as many), in the middle of the segment;
        nothing in a step that isn't deep.
        """
        later = memory[:, :, TELLING:].float()
        count, asked, most, _ = later.shape
        if most == 0:
            return {}
        labels = batch["cells"].unflatten(0, (count, -1))[:, WINDOW // 4, TELLING:][:, :most, :2]
        return {"details": self._described(later, labels[:, None].expand(-1, asked, -1, -1))}

    def _forward(self, batch: Batch, learns: str) -> dict[str, Tensor]:
        with torch.set_grad_enabled(learns == "all"):
            tokens, features = self._see(batch["frames"])
            scores, memory = self.compress(
                batch, tokens.flatten(0, 1), [feature.flatten(0, 1) for feature in features]
            )
        head = self.told(memory[:, :, :TELLING].mean(2).float())
        told = _classify(head, batch["told"], TOLD_CLASSES)
        relevant = batch["relevant"]
        relevance = nn.functional.binary_cross_entropy_with_logits(scores, relevant)
        answer, right = self.answer(batch, memory)
        return {
            "answer": answer,
            "relevance": relevance,
            "told": told,
            "right": right,
            "scores": scores,
            **self._seen(tokens, batch),
            **self._detailed(memory, batch),
        }

    def _see(self, frames: Tensor) -> tuple[Tensor, list[Tensor]]:
        self.model.vision._tables.clear()  # made from the position table, which is learning
        with sdpa_kernel(SDPBackend.MATH):  # short sequences: faster than the fused backward
            return self.model.vision(patches(frames), GRID)

    def compress(
        self, batch: Batch, tokens: Tensor, features: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Relevance logits [N, Q] and memory tokens [N, Q, K, D], K the most that any keeps."""
        decoder, memory = self.model.compressor, self.model.memory_tokens
        ids, film, kept = batch["ids"], batch["film"], batch["kept"]
        queries = batch["queries"][film]  # [N, Q, L]
        count, asked, length = queries.shape
        most = int(kept.max())
        written = queries != PAD
        sizes = written.sum(-1, keepdim=True)
        # A query is padded in front, so that its memory tokens stand right behind it.
        order = (torch.arange(length) - (length - sizes)) % length
        queries = queries.gather(-1, order)
        written = queries != PAD
        texts = embedding(queries.clamp(min=0), decoder.embed_tokens)
        blocks = torch.cat((texts, memory[:most].expand(count, asked, -1, -1)), 2)
        valid = nn.functional.pad(written, (0, most), value=True)
        after = torch.arange(length + most) - (length - sizes) + batch["after"][:, None, None]

        place = (ids == self.video_pad).flatten().nonzero()[:, 0]
        seen = embedding(ids.clamp(min=0), decoder.embed_tokens)
        width = seen.shape[-1]
        seen = seen.flatten(0, 1).index_copy(0, place, tokens.to(seen.dtype)).view_as(seen)
        hidden = torch.cat((seen, blocks.flatten(1, 2)), 1)
        positions = torch.cat(
            (batch["positions"], after.clamp(min=0).flatten(1)[:, None].expand(-1, 3, -1)), 2
        )
        rows, visual_length = len(hidden), ids.shape[1]
        flat = torch.arange(rows * hidden.shape[1]).view(rows, -1)[:, :visual_length]
        index = flat.flatten()[place]

        past = decode(
            decoder,
            embedding(self.system, decoder.embed_tokens)[None],
            torch.arange(len(self.system)).expand(3, 1, -1),
            None,
        )[1]
        mask = self._mask(ids != PAD, valid)
        hidden, _ = decode(
            decoder,
            hidden,
            positions.transpose(0, 1),
            mask,
            past=past,
            visual=(index, features),
        )
        blocks = decoder.norm(hidden[:, visual_length:].unflatten(1, (asked, -1)).float())
        scores = blocks[:, :, length - 1].float() @ self.model.yes_minus_no
        return scores, blocks[:, :, length:].reshape(count, asked, most, width)

    def _mask(self, seen: Tensor, valid: Tensor) -> Tensor:
        """0 or -inf [N, 1, T, system + T]: a query sees the visual part and what is its own."""
        rows, asked, block = valid.shape
        owner = torch.cat(
            (seen.new_zeros(seen.shape[1]).long(), torch.arange(asked).repeat_interleave(block) + 1)
        )
        own = (owner[:, None] == owner) | (owner == 0)
        causal = own & torch.ones_like(own).tril()
        there = torch.cat((seen, valid.flatten(1)), 1)
        mask = causal & there[:, None]
        system = mask.new_ones(rows, mask.shape[1], len(self.system))
        mask = torch.cat((system, mask), 2)[:, None]
        return torch.zeros(mask.shape).masked_fill_(~mask, float("-inf"))

    def answer(self, batch: Batch, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Mean loss of the answers' tokens, and which answers are right from end to end."""
        model, prompts, targets = self.model, batch["prompts"], batch["targets"]
        most, kept = memory.shape[2], batch["kept"]
        keeps = torch.arange(most) < kept[..., None]  # [N, Q, K]
        # Prompts go film by film and question by question, and in them segment by segment.
        order = torch.argsort(
            (batch["film"][:, None] * kept.shape[1] + torch.arange(kept.shape[1])).flatten(),
            stable=True,
        )
        tokens = memory.flatten(0, 1)[order][keeps.flatten(0, 1)[order]]
        embeds = embedding(prompts.clamp(min=0), model.language_model.embed_tokens)
        place = (prompts == MEMORY_PLACE).flatten().nonzero()[:, 0]
        flat = embeds.flatten(0, 1).index_copy(0, place, model.projector(tokens).to(embeds.dtype))
        positions = torch.arange(prompts.shape[1]).expand(len(prompts), -1)
        hidden, _ = decode(model.language_model, flat.view_as(embeds), positions, None)
        wanted = targets != IGNORE
        logits = linear(model.language_model.norm(hidden[wanted].float()), model.lm_head)
        loss = cross_entropy(logits.float(), targets[wanted])
        wrong = torch.zeros(len(prompts), dtype=torch.long)
        missed = (logits.argmax(-1) != targets[wanted]).long()
        wrong.index_add_(0, wanted.nonzero()[:, 0], missed)
        return loss, wrong == 0
