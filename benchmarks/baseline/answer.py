"""One question from frames to token ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from time import perf_counter

import numpy as np
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase, Qwen3Config
from transformers.generation.streamers import BaseStreamer

from tempo_fast.checkpoint.files import resolve
from tempo_fast.checkpoint.load import END_OF_TURN
from tempo_fast.compression.allocation import allocate
from tempo_fast.compression.prompt import time_tag
from tempo_fast.engine.clock import Clock
from tempo_fast.language_model.prompt import AFTER, BEFORE, SPARE

from .networks import Networks, read_networks
from .segments import SegmentBatch, prepare

VIDEO = 2  # in mm_token_type_ids


@dataclass(frozen=True)
class BaselineAnswer:
    """token_ids: as generated, the end token included. relevance: float32 [S]. allocations: [S],
    memory tokens kept of each segment. inputs_embeds: [L, E], the language model's whole prompt.
    timings: seconds by the engine's stages; `prefill` ends with the first token."""

    token_ids: list[int]
    relevance: torch.Tensor
    allocations: list[int]
    inputs_embeds: torch.Tensor
    timings: dict[str, float]


class Baseline:
    """Answers questions about frames in memory, each from the beginning, greedily.

    tokenizer: the language model's. base_tokenizer: the compressor's. stop_tokens: end an answer.
    """

    def __init__(
        self,
        networks: Networks,
        tokenizer: PreTrainedTokenizerBase,
        base_tokenizer: PreTrainedTokenizerBase,
        stop_tokens: Sequence[int],
    ) -> None:
        self.networks = networks
        self.tokenizer = tokenizer
        self.base_tokenizer = base_tokenizer
        self.stop_tokens = sorted(stop_tokens)
        self.device = networks.memory_tokens.device

    @classmethod
    def from_folder(
        cls,
        folder: str | PathLike[str],
        base: str | PathLike[str] | None = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> Baseline:
        """folder, base: as for `TempoFastPipeline.from_pretrained`."""
        files = resolve(folder, base, local_files_only=True)
        tokenizer, base_tokenizer = (
            AutoTokenizer.from_pretrained(place, config=Qwen3Config(), local_files_only=True)
            for place in (files.tempo, files.base)
        )
        stop = {tokenizer.convert_tokens_to_ids(END_OF_TURN), tokenizer.eos_token_id}
        networks = read_networks(files, torch.device(device), dtype)
        return cls(networks, tokenizer, base_tokenizer, stop)

    @torch.inference_mode()
    def answer(
        self,
        frames: np.ndarray,
        fps: float,
        query: str,
        *,
        frame_windows: int = 8,
        visual_token_budget: int = 8192,
        min_tokens: int = 4,
        dynamic_compress: bool = True,
        tokenizer_model_max_length: int = 16384,
        max_new_tokens: int = 1024,
    ) -> BaselineAnswer:
        """Answer a question about frames uint8 [F, H, W, 3]; options as those of the engine."""
        clock = Clock(self.device)
        with clock("resize"):
            batch = prepare(self.base_tokenizer, frames, fps, query, frame_windows)
            batch = batch.to(self.device)
        with clock("vision"):
            tokens, features = self.see(batch)
        with clock("compress"):
            memory, relevance = self.compress(batch, tokens, features)
        with clock("allocate"):
            if dynamic_compress:
                counts = allocate(
                    relevance.cpu(),
                    tokens=memory.shape[1],
                    budget=visual_token_budget,
                    min_tokens=min_tokens,
                ).tolist()
            else:
                counts = [memory.shape[1]] * len(memory)
        with clock("prefill"):
            embeds = self.assemble(query, memory, counts, batch.centres, tokenizer_model_max_length)
        del batch, tokens, features, memory
        began = perf_counter()
        ids, first = self.generate(embeds, max_new_tokens)
        clock.add("prefill", first - began)
        clock.add("generate", perf_counter() - first)
        return BaselineAnswer(ids, relevance.cpu(), counts, embeds, dict(clock.seconds))

    def see(self, batch: SegmentBatch) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Visual tokens [V, D] and deepstack features [V, D] of all segments."""
        seen = self.networks.vision_language.get_video_features(batch.pixels, batch.grids)
        return _joined(seen.pooler_output), [_joined(part) for part in seen.deepstack_features]

    def compress(
        self, batch: SegmentBatch, tokens: torch.Tensor, features: list[torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Memory tokens [S, M, D] after the final norm and relevance float32 [S]."""
        model, memory = self.networks.vision_language, self.networks.memory_tokens
        segments, count = len(batch.input_ids), len(memory)
        lengths = batch.attention_mask.sum(1, keepdim=True)
        pad = self.base_tokenizer.pad_token_id
        ids = torch.nn.functional.pad(batch.input_ids, (0, count), value=pad)
        place = torch.arange(ids.shape[1], device=self.device)[None]
        is_memory = (place >= lengths) & (place < lengths + count)
        is_visual = ids == model.config.video_token_id
        mask = (place < lengths + count).long()
        embeds = model.get_input_embeddings()(ids)
        embeds = embeds.masked_scatter(is_visual[..., None], tokens.to(embeds.dtype))
        embeds[is_memory] = memory.expand(segments, -1, -1).flatten(0, 1)
        positions, _ = model.get_rope_index(
            ids, is_visual.int() * VIDEO, video_grid_thw=batch.grids, attention_mask=mask
        )
        # As published, the keys and values that nobody will read are kept until the end.
        hidden = model.language_model(
            inputs_embeds=embeds,
            attention_mask=mask,
            position_ids=positions,
            visual_pos_masks=is_visual,
            deepstack_visual_embeds=features,
        ).last_hidden_state
        last = hidden[torch.arange(segments, device=self.device), lengths[:, 0] - 1]
        relevance = torch.sigmoid(last.float() @ self.networks.yes_minus_no)
        return hidden[is_memory].view(segments, count, -1), relevance

    def assemble(
        self,
        query: str,
        memory: torch.Tensor,
        counts: list[int],
        centres: list[float],
        max_length: int,
    ) -> torch.Tensor:
        """The language model's input embeddings [L, E]."""
        embed = self.networks.language_model.get_input_embeddings()
        kept = torch.cat([tokens[:count] for tokens, count in zip(memory, counts, strict=True)])
        parts = []
        for tokens, moment in zip(
            self.networks.projector(kept).split(counts), centres, strict=True
        ):
            if len(tokens):
                parts += [embed(self._ids(time_tag(moment))), tokens]
        before, after = embed(self._ids(BEFORE)), embed(self._ids(f"\n{query}{AFTER}"))
        room = max_length - len(before) - len(after) - SPARE
        return torch.cat((before, torch.cat(parts)[:room], after))

    def _ids(self, text: str) -> torch.Tensor:
        ids = self.tokenizer(text, add_special_tokens=False).input_ids
        return torch.tensor(ids, device=self.device)

    def generate(self, embeds: torch.Tensor, max_new_tokens: int) -> tuple[list[int], float]:
        """Token ids, and the moment when the first was there."""
        watch = _FirstToken()
        ids = self.networks.language_model.generate(
            inputs_embeds=embeds[None],
            attention_mask=torch.ones(1, len(embeds), dtype=torch.long, device=self.device),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            use_cache=True,
            eos_token_id=self.stop_tokens,
            pad_token_id=self.stop_tokens[0],
            streamer=watch,
        )
        return ids[0].tolist(), watch.moment


class _FirstToken(BaseStreamer):
    """Notes when the first token came."""

    def __init__(self) -> None:
        self.moment = 0.0

    def put(self, value: torch.Tensor) -> None:
        # The prompt's ids come first: none, as it is given by embeddings.
        if value.numel() and not self.moment:
            self.moment = perf_counter()

    def end(self) -> None:
        pass


def _joined(features: torch.Tensor | Sequence[torch.Tensor]) -> torch.Tensor:
    """Those of all videos: transformers splits the deepstack features by video since 5.18."""
    return features if isinstance(features, torch.Tensor) else torch.cat(features)
