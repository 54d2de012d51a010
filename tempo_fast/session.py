"""A video that is open: encoded once, asked any number of questions."""

from __future__ import annotations

import threading
from collections.abc import Callable

import torch

from tempo_fast.answer import Answer, CompressedVideo
from tempo_fast.compression.allocation import Allocation
from tempo_fast.compression.compressor import Compressor
from tempo_fast.compression.encoded import EncodedVideo
from tempo_fast.compression.encoder import Progress
from tempo_fast.compression.strategies import Strategy
from tempo_fast.engine.chunks import memory_explained
from tempo_fast.engine.clock import Clock
from tempo_fast.errors import TempoError
from tempo_fast.language_model.generation import Generation
from tempo_fast.language_model.prompt import LanguagePrompt
from tempo_fast.language_model.steps import StepPool
from tempo_fast.options import AskOptions, make_options
from tempo_fast.question import check_question, question_strategy
from tempo_fast.stream import AnswerStream
from tempo_fast.tokenizer import PromptTokenizer


class Video:
    """A video's segments as keys and values, ready for questions.

    Made by `TempoFastPipeline.open`. frames: how many were sampled. segments: [(start_s, end_s)].
    shift: the most seconds between a sample's moment and its frame (frames="keyframes"), else 0.
    timings: seconds that opening it took by stage. memory: a MemoryPlan, what it needs and what was
    decided: where memory is short, the keys and values wait on the host, or each question encodes
    the video again, from a source that stays open (a file, or the caller's own array, which must
    not change meanwhile).
    A context manager: `close` frees its memory. Questions may come from several threads; their
    compressions take turns.
    """

    def __init__(
        self,
        compressor: Compressor,
        prompt: LanguagePrompt,
        tokenizer: PromptTokenizer,
        stop_tokens: frozenset[int],
        encoded: EncodedVideo,
        frames: int,
        timings: dict[str, float],
        steps: StepPool | None = None,
        close_source: Callable[[], None] | None = None,
        shift: float = 0.0,
    ) -> None:
        self.segments = encoded.plan.times
        self.frames = frames
        self.shift = shift
        self.timings = timings
        self.memory = encoded.memory
        self._steps = steps
        self._close_source = close_source
        self._compressor = compressor
        self._prompt = prompt
        self._tokenizer = tokenizer
        self._stop_tokens = stop_tokens
        self._centres = encoded.plan.centres
        self._encoded: EncodedVideo | None = encoded
        # Reentrant, for a progress callback that closes the video.
        self._lock = threading.RLock()
        self._asking = False

    def ask(
        self,
        query: str,
        *,
        stream: bool = False,
        progress: Progress | None = None,
        clock: Clock | None = None,
        **options,
    ) -> Answer | AnswerStream:
        """Answer a question about the video.

        options: those of `tempo_fast.options.AskOptions`. stream: return an AnswerStream, which
        yields the text as it is made. progress: called with (stage, done, total) for "score" and
        "write" (segments) and "generate" (tokens). clock: one that has counted what came before.
        Raises OptionError for options that can't be met, ModelError for scores that are no number.
        """
        asking = make_options(AskOptions, options)
        clock = clock or Clock(self._compressor.device)
        compressed = self._compress(query, asking, clock, progress)
        with clock("prefill"), memory_explained("the prompt", self._compressor.meter):
            generation = Generation(
                self._compressor.model,
                compressed.inputs_embeds,
                asking.max_new_tokens,
                self._steps,
            )
        answer = AnswerStream(
            compressed,
            generation,
            self._tokenizer,
            self._stop_tokens,
            asking,
            clock,
            progress,
            self.memory,
        )
        return answer if stream else answer.finish()

    def compress(
        self, query: str, *, progress: Progress | None = None, **options
    ) -> CompressedVideo:
        """The video as the language model reads it for a question; options as for `ask`."""
        asking = make_options(AskOptions, options)
        return self._compress(query, asking, Clock(self._compressor.device), progress)

    def close(self) -> None:
        """Free the keys and values. Questions after this are an error."""
        with self._lock:
            self._encoded = None
            if self._close_source is not None:
                self._close_source()

    def __enter__(self) -> Video:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _compress(
        self, query: str, options: AskOptions, clock: Clock, progress: Progress | None
    ) -> CompressedVideo:
        config = self._compressor.model.config
        strategy = question_strategy(config, options, is_image=self._centres is None)
        check_question(self._prompt, query, options, strategy, len(self.segments))
        with self._lock:
            if self._asking:
                raise TempoError("a progress callback can't ask about the video it reports on")
            self._asking = True
            try:
                with memory_explained("the question", self._compressor.meter):
                    relevance, allocation, tokens = self._select(
                        query, options, strategy, clock, progress
                    )
            finally:
                self._asking = False
        with clock("prefill"):
            inputs_embeds = self._prompt.assemble(
                query, tokens, allocation, self._centres, options.tokenizer_model_max_length
            )
        return CompressedVideo(relevance, allocation.counts, tokens, inputs_embeds, self.segments)

    def _select(
        self,
        query: str,
        options: AskOptions,
        strategy: Strategy,
        clock: Clock,
        progress: Progress | None,
    ) -> tuple[torch.Tensor, Allocation, torch.Tensor]:
        """Relevance [S], the allocation and the kept memory tokens [Σk, D] of a question."""
        compressor, video = self._compressor, self._encoded
        if video is None:
            raise TempoError("the video is closed; open it again to ask more")
        ids = compressor.prompt.query(query)
        lazy = options.lazy and not strategy.needs_every_token
        rule = {
            "tokens": len(compressor.model.memory_tokens),
            "budget": int(options.visual_token_budget),
            "min_tokens": int(options.min_tokens),
        }
        # What the launch that scores may allocate by.
        shared = rule if strategy.shares_by_relevance else None
        # Rows that can't keep the query are passed through the compressor once.
        if lazy := lazy and compressor.holds(video, len(ids)):
            with clock("compress"):
                scored = compressor.score(video, ids, progress, shared)
        else:
            scored, memory = compressor.score_and_write(video, ids, clock, progress, shared)
        with clock("allocate"):
            allocation = strategy.allocate(scored.relevance, **rule, shares=scored.shares)
        with clock("compress"):
            if lazy:
                tokens = compressor.write(video, ids, allocation.kept, progress)
            else:
                tokens = strategy.select(memory, allocation, compressor.decoder.norm)
        return scored.relevance, allocation, tokens
