"""The front door: load a Tempo, open a video, ask."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from os import PathLike

import numpy as np
import torch
from PIL import Image

from tempo_fast.answer import Answer, CompressedVideo
from tempo_fast.checkpoint.files import resolve
from tempo_fast.checkpoint.load import Checkpoint, load
from tempo_fast.compression.compressor import Compressor
from tempo_fast.compression.encoded import EncodedVideo
from tempo_fast.compression.encoder import Progress
from tempo_fast.compression.plan import plan_segments
from tempo_fast.compression.prompt import SegmentPrompt
from tempo_fast.engine.choices import chosen, fused_allocation
from tempo_fast.engine.chunks import memory_explained
from tempo_fast.engine.clock import Clock
from tempo_fast.engine.crew import crew_has_all_cores, crew_size
from tempo_fast.engine.ops import uses_kernels
from tempo_fast.errors import OptionError
from tempo_fast.language_model.prompt import LanguagePrompt
from tempo_fast.language_model.steps import StepPool
from tempo_fast.options import AskOptions, OpenOptions, make_options, split_options
from tempo_fast.question import check_question, question_strategy
from tempo_fast.session import Video
from tempo_fast.stream import AnswerStream
from tempo_fast.video.arrays import ArrayVideo
from tempo_fast.video.frames import FrameSource, as_it_is
from tempo_fast.video.resize import (
    frame_size,
    image_size,
    plan_resize,
    resize_frame,
    resize_image,
)
from tempo_fast.video.segments import HeldSegments, SegmentReader, depth_for, windows
from tempo_fast.video.source import open_source

AnyVideo = str | PathLike | np.ndarray | torch.Tensor | Image.Image


class TempoFastPipeline:
    """A loaded Tempo that answers questions about videos and images.

    `pipe(video, query)` answers one question; `pipe.open(video)` encodes a video once for any
    number of them. A video is a path (a video file, gif, `.npy`, image or folder of images), a
    uint8 array [F, H, W, 3] of frames already sampled at `fps`, or an image (PIL or array [H, W,
    3]).
    """

    def __init__(
        self, checkpoint: Checkpoint, *, graphs: bool | None = None, streams: bool | None = None
    ) -> None:
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
        self.graphs = chosen("graphs", graphs)
        self.streams = chosen("streams", streams)
        if self.graphs and self.device.type == "cuda" and not uses_kernels(self.device):
            raise OptionError(
                "graphs=True captures the Triton kernels: install Triton and leave "
                "TEMPO_FAST_KERNELS alone, or leave graphs off"
            )
        self._prompt = LanguagePrompt(checkpoint.tokenizer, checkpoint.model)
        self._steps = StepPool(checkpoint.model) if self.graphs else None
        self._compressors = {
            kind: Compressor(
                checkpoint.model,
                SegmentPrompt(checkpoint.base_tokenizer, kind),
                graphs=self.graphs,
                streams=self.streams,
            )
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
        *,
        graphs: bool | None = None,
        streams: bool | None = None,
    ) -> TempoFastPipeline:
        """Load a Tempo checkpoint.

        model: a folder, or a hub id such as "Vision-CAIR/Tempo-6B"; revision: branch, tag or commit
        of that id. base: folder or id of the Qwen3-VL base; by default a folder of its name beside
        `model`, else the id that the checkpoint names. device: by default CUDA where there is one.
        dtype: "auto" (as stored), "float32" or "bfloat16". local_files_only: never use the network.
        graphs: capture the decode step and the compressor's chunks in CUDA graphs; streams: run
        vision encoder, compressor and copies of neighbouring chunks beside each other; None is the
        default of `tempo_fast.engine.choices`. Without CUDA both run as they are written, which
        tests them and gains nothing.
        Raises CheckpointError when anything is missing or doesn't fit, OutOfMemoryError when the
        weights don't.
        """
        graphs, streams = chosen("graphs", graphs), chosen("streams", streams)
        fused_allocation()  # which is looked at again, but may be refused before anything is loaded
        files = resolve(model, base, revision=revision, local_files_only=local_files_only)
        with memory_explained("the weights"):
            checkpoint = load(files, device, dtype)
        return cls(checkpoint, graphs=graphs, streams=streams)

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

    def _crew_resizes(self, source: FrameSource, options: OpenOptions) -> bool:
        """Whether the threads that encode do best to take frames and resize them: others would be
        in their way, and are needed only to decode, to resize a frame once for two windows, or
        where too few segments come for all of those threads."""
        cuts = windows(source.count, options.frame_windows, options.stride)
        many = len(cuts) >= 2 * crew_size(self.device)
        apart = options.stride >= options.frame_windows
        held = isinstance(source, ArrayVideo) and many and apart
        return held and crew_has_all_cores(self.device)

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
        with ExitStack() as stack:
            source = stack.enter_context(open_source(video, options))
            compressor = self._compressors["image" if source.is_image else "video"]
            if question is not None:
                query, asking = question
                strategy = question_strategy(self.config, asking, is_image=source.is_image)
                segments = len(windows(source.count, options.frame_windows, options.stride))
                check_question(self._prompt, query, asking, strategy, segments)
            held = self._crew_resizes(source, options)
            limits = self.config.frames
            size, resize, resizing = (
                partial(frame_size, limits=limits),
                partial(resize_frame, limits=limits),
                (),
            )
            if source.is_image:
                size = partial(image_size, **self._image_limits)
                resize = partial(resize_image, **self._image_limits)
            elif uses_kernels(self.device) or held:
                resize, resizing = as_it_is, plan_resize(source.height, source.width, limits)
            seen = size(source.height, source.width)
            plan = plan_segments(
                compressor.prompt,
                windows(source.count, options.frame_windows, options.stride),
                frame_size=seen,
                vision=self.config.vision,
                window_size=options.frame_windows,
                real_fps=source.real_fps,
                is_image=source.is_image,
                resizing=resizing,
            )
            # Frames that the encoder resizes wait at their full size.
            waiting = (source.height, source.width) if resizing else seen
            # Of those that are held, a thread copies a pair at a time.
            pair = self.config.vision.temporal_patch
            frames = pair if held else options.frame_windows + options.frame_windows % 2
            depth = depth_for(options.frame_windows, *waiting)
            reader = HeldSegments if held else partial(SegmentReader, resize=resize, depth=depth)
            read = _Reading(source, partial(reader, source, options.frame_windows, options.stride))
            asking = question[1] if question else AskOptions()
            memory = compressor.plan_memory(plan, 3 * frames * math.prod(waiting), asking)
            rows = compressor.new_rows(plan, memory)
            close_source = None
            if rows is None:
                # Every question reads the frames, the first one too.
                encoded = EncodedVideo(plan, memory, None, read)
                close_source = stack.pop_all().close
            else:
                with read(clock) as segments:
                    encoded = compressor.encode(plan, memory, rows, segments, clock, progress)
        return Video(
            compressor,
            self._prompt,
            self.checkpoint.tokenizer,
            self.checkpoint.stop_tokens,
            encoded,
            source.count,
            dict(clock.seconds),
            self._steps,
            close_source,
            source.shift,
        )


class _Reading:
    """The segments of an open source, read from the start as often as it is called."""

    def __init__(
        self, source: FrameSource, reader: Callable[[], SegmentReader | HeldSegments]
    ) -> None:
        self._source = source
        self._reader = reader
        self._counted = 0.0

    @contextmanager
    def __call__(self, clock: Clock) -> Iterator[SegmentReader | HeldSegments]:
        """The reader; its seconds are on the clock when the block has ended."""
        with self._reader() as reader:
            yield reader
        clock.add("decode", self._source.decode_seconds - self._counted)
        self._counted = self._source.decode_seconds
        clock.add("resize", reader.resize_seconds)
