"""Frames and a question to the compressor's one padded batch, as the published code prepares it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

from tempo_fast.compression.prompt import BLANK_QUERY, SYSTEM, time_tag
from tempo_fast.video.resize import Step, plan_resize

PATCH, TEMPORAL_PATCH, MERGE = 16, 2, 2
START, PAD, END = "<|vision_start|>", "<|video_pad|>", "<|vision_end|>"
BICUBIC = Image.Resampling.BICUBIC


@dataclass(frozen=True)
class SegmentBatch:
    """input_ids, attention_mask: int64 [S, L], padded on the right. pixels: float32 [patches, 1536]
    of all segments. grids: int64 [S, 3], temporal patches, rows and columns of patches. centres:
    the moment of each segment in seconds."""

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    pixels: torch.Tensor
    grids: torch.Tensor
    centres: list[float]

    def to(self, device: torch.device) -> SegmentBatch:
        tensors = (self.input_ids, self.attention_mask, self.pixels, self.grids)
        return SegmentBatch(*(tensor.to(device) for tensor in tensors), self.centres)


def prepare(
    tokenizer: PreTrainedTokenizerBase, frames: np.ndarray, fps: float, query: str, window: int
) -> SegmentBatch:
    """Frames uint8 [F, H, W, 3] sampled at `fps`, cut into segments of `window` frames."""
    pixels, grids = make_patches(frames, window)
    ids = [
        _prompt_ids(tokenizer, query, grid, index * window, fps) for index, grid in enumerate(grids)
    ]
    return SegmentBatch(
        input_ids=pad_sequence(ids, batch_first=True, padding_value=tokenizer.pad_token_id),
        attention_mask=pad_sequence([torch.ones_like(one) for one in ids], batch_first=True),
        pixels=pixels,
        grids=torch.tensor(grids),
        centres=[(first + window / 2) / fps for first in range(0, len(frames), window)],
    )


def make_patches(
    frames: np.ndarray, window: int
) -> tuple[torch.Tensor, list[tuple[int, int, int]]]:
    """Resize and cut frames uint8 [F, H, W, 3]: patches float32 [patches, 1536] of all segments,
    and (temporal patches, rows, columns) of each."""
    steps = plan_resize(*frames.shape[1:3])
    images = [_by_pillow(frame, steps) for frame in frames]
    segments = [
        patchify(_by_torch(images[first : first + window], steps))
        for first in range(0, len(images), window)
    ]
    return torch.cat([patches for patches, _ in segments]), [grid for _, grid in segments]


def _by_pillow(frame: np.ndarray, steps: tuple[Step, ...]) -> Image.Image:
    image = Image.fromarray(frame)
    for step in steps:
        if step.by_pillow:
            # The width first, as Pillow itself did when the published code was run.
            for size in ((step.width, image.height), (step.width, step.height)):
                image = image if size == image.size else image.resize(size, BICUBIC)
    return image


def _by_torch(segment: list[Image.Image], steps: tuple[Step, ...]) -> torch.Tensor:
    """One segment's frames, an even number: float32 [n, 3, h, w] of whole numbers 0…255."""
    frames = [torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in segment]
    video = torch.stack(frames + frames[-1:] * (len(frames) % TEMPORAL_PATCH)).float()
    for step in steps:
        if not step.by_pillow:
            size = (step.height, step.width)
            video = functional.interpolate(video, size, mode="bicubic", antialias=True)
            video = video.clamp(0, 255).round()
    return video


def patchify(video: torch.Tensor) -> tuple[torch.Tensor, tuple[int, int, int]]:
    """Hugging Face's video processor without its own resizing: normalise, cut, reorder.

    video: float32 [n, 3, h, w]. Returns float32 [patches, 1536] and (temporal patches, rows,
    columns). Written out because the processor itself can't be imported without torchvision.
    """
    n, channels, height, width = video.shape
    grid = (n // TEMPORAL_PATCH, height // PATCH, width // PATCH)
    times, rows, columns = grid
    blocks = ((video - 127.5) / 127.5).view(
        times, TEMPORAL_PATCH, channels, rows // MERGE, MERGE, PATCH, columns // MERGE, MERGE, PATCH
    )
    return blocks.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(times * rows * columns, -1), grid


def _prompt_ids(
    tokenizer: PreTrainedTokenizerBase,
    query: str,
    grid: tuple[int, int, int],
    first: int,
    fps: float,
) -> torch.Tensor:
    """int64 [tokens] of the segment whose first frame has index `first`, without memory tokens."""
    question = f"\nQuery:\n{query if query.strip() else BLANK_QUERY}"
    messages = [
        {"role": "system", "content": [{"type": "text", "text": SYSTEM}]},
        {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": question}]},
    ]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    times, rows, columns = grid
    visual = START + PAD * (rows * columns // MERGE**2) + END
    seconds = [(a / fps + (a + 1) / fps) / 2 for a in range(first, first + 2 * times, 2)]
    video = "".join(time_tag(moment) + visual for moment in seconds)
    return torch.tensor(tokenizer(text.replace(START + PAD + END, video, 1)).input_ids)
