"""The front door: load a Tempo, open a video, ask."""

from __future__ import annotations

from functools import partial
from os import PathLike

import numpy as np
import torch
from PIL import Image

from tempo_fast.answer import Answer, CompressedVideo
from tempo_fast.checkpoint.files import resolve
from tempo_fast.checkpoint.load import Checkpoint, load
from tempo_fast.compression.compressor import Compressor, Progress
from tempo_fast.compression.plan import plan_segments
from tempo_fast.compression.prompt import SegmentPrompt
from tempo_fast.engine.clock import Clock
from tempo_fast.engine.ops import uses_kernels
from tempo_fast.language_model.prompt import LanguagePrompt
from tempo_fast.options import AskOptions, OpenOptions, make_options, split_options
from tempo_fast.question import check_question, question_strategy
from tempo_fast.session import Video
from tempo_fast.stream import AnswerStream
from tempo_fast.video.resize import (
    frame_size,
    image_size,
    plan_resize,
    resize_frame,
    resize_image,
)
from tempo_fast.video.segments import SegmentReader, depth_for, windows
from tempo_fast.video.source import open_source

AnyVideo = str | PathLike | np.ndarray | torch.Tensor | Image.Image


class TempoFastPipeline:
    """A loaded Tempo that answers questions about videos and images.

    `pipe(video, query)` answers one question; `pipe.open(video)` encodes a video once for any
    number of them. A video is a path (a video file, gif, `.npy`, image or folder of images), a
    uint8 array [F, H, W, 3] of frames already sampled at `fps`, or an image (PIL or array [H, W,
    3]).
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self.config = checkpoint.config
        self.device = checkpoint.model.memory_tokens.device
        self.dtype = checkpoint.model.memory_tokens.dtype
        vision, limits = self.config.vision, checkpoint.image_limits
        self._image_limits = {
            "factor": vision.patch * vision.merge,
            "min_pixels": limits.min_pixels,
            "max_pixels": limits.max_pixels,
        }
        self._prompt = LanguagePrompt(checkpoint.tokenizer, checkpoint.model)
        self._compressors = {
            kind: Compressor(checkpoint.model, SegmentPrompt(checkpoint.base_tokenizer, kind))
            for kind in ("video", "image")
        }

    @classmethod
    def from_pretrained(
        cls,
        model: str | PathLike,
        base: str | PathLike | None = None,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype = "auto",
        revision: str | None = None,
        local_files_only: bool = False,
    ) -> TempoFastPipeline:
        """Load a Tempo checkpoint.

        model: a folder, or a hub id such as "Vision-CAIR/Tempo-6B"; revision: branch, tag or commit
        of that id. base: folder or id of the Qwen3-VL base; by default a folder of its name beside
        `model`, else the id that the checkpoint names. device: by default CUDA where there is one.
        dtype: "auto" (as stored), "float32" or "bfloat16". local_files_only: never use the network.
        Raises CheckpointError when anything is missing or doesn't fit.
        """
        files = resolve(model, base, revision=revision, local_files_only=local_files_only)
        return cls(load(files, device, dtype))

    def __call__(
        self, video: AnyVideo, query: str, *, progress: Progress | None = None, **options
    ) -> Answer:
        """Answer one question about a video.

        options: those of OpenOptions and AskOptions in `tempo_fast.options`. progress: called with
        (stage, done, total); "decode", "encode", "score" and "write" count segments, "generate"
        tokens.
        Raises VideoError for a video that can't be read and OptionError for an option.
        """
        return self.stream(video, query, progress=progress, **options).finish()

    def stream(
        self, video: AnyVideo, query: str, *, progress: Progress | None = None, **options
    ) -> AnswerStream:
        """As calling the pipeline, but the text comes in pieces as it is made."""
        opening, asking = split_options(options)
        clock = Clock(self.device)
        with self._open(video, opening, clock, progress, (query, asking)) as opened:
            return opened.ask(query, stream=True, progress=progress, clock=clock, **vars(asking))

    def compress(
        self, video: AnyVideo, query: str, *, progress: Progress | None = None, **options
    ) -> CompressedVideo:
        """The memory tokens and language-model input of one question, without answering it."""
        opening, asking = split_options(options)
        with self._open(video, opening, Clock(self.device), progress, (query, asking)) as opened:
            return opened.compress(query, progress=progress, **vars(asking))

    def open(self, video: AnyVideo, *, progress: Progress | None = None, **options) -> Video:
        """Encode a video once, before any question.

        options: those of `tempo_fast.options.OpenOptions`.
        """
        opening = make_options(OpenOptions, options)
        return self._open(video, opening, Clock(self.device), progress, None)

    def _open(
        self,
        video: AnyVideo,
        options: OpenOptions,
        clock: Clock,
        progress: Progress | None,
        question: tuple[str, AskOptions] | None,
    ) -> Video:
        """Read and encode a video, after checking that `question`, if there is one, can be met."""
        with open_source(video, options) as source:
            compressor = self._compressors["image" if source.is_image else "video"]
            if question is not None:
                query, asking = question
                strategy = question_strategy(self.config, asking, is_image=source.is_image)
                segments = len(windows(source.count, options.frame_windows, options.stride))
                check_question(self._prompt, query, asking, strategy, segments)
            limits = self.config.frames
            size, resize, resizing = (
                partial(frame_size, limits=limits),
                partial(resize_frame, limits=limits),
                (),
            )
            if source.is_image:
                size = partial(image_size, **self._image_limits)
                resize = partial(resize_image, **self._image_limits)
            elif uses_kernels(self.device):
                resize, resizing = _as_it_is, plan_resize(source.height, source.width, limits)
            seen = size(source.height, source.width)
            plan = plan_segments(
                compressor.prompt,
                windows(source.count, options.frame_windows, options.stride),
                frame_size=seen,
                vision=self.config.vision,
                window_size=options.frame_windows,
                real_fps=source.real_fps,
                is_image=source.is_image,
                resizing=tuple((s.height, s.width, s.by_pillow) for s in resizing),
            )
            # Frames that the device resizes wait at their full size.
            waiting = (source.height, source.width) if resizing else seen
            with SegmentReader(
                source,
                options.frame_windows,
                options.stride,
                resize=resize,
                depth=depth_for(options.frame_windows, *waiting),
            ) as reader:
                encoded = compressor.encode(plan, reader, clock, progress)
            clock.add("decode", reader.decode_seconds)
            clock.add("resize", reader.resize_seconds)
        return Video(
            compressor,
            self._prompt,
            self.checkpoint.tokenizer,
            self.checkpoint.stop_tokens,
            encoded,
            source.count,
            dict(clock.seconds),
        )


def _as_it_is(frame: np.ndarray) -> np.ndarray:
    """What the reader does to a frame that the device will resize."""
    return frame
