"""A video that is open: encoded once, asked any number of questions."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import torch

from tempo_fast.answer import Answer, CompressedVideo
from tempo_fast.compression.allocation import check_budget
from tempo_fast.compression.compressor import Compressor, EncodedVideo, Progress
from tempo_fast.compression.strategies import Strategy, strategy_of
from tempo_fast.engine.clock import Clock
from tempo_fast.errors import OptionError, TempoError
from tempo_fast.language_model.generation import Generation
from tempo_fast.language_model.prompt import LanguagePrompt
from tempo_fast.language_model.sampling import Sampler
from tempo_fast.language_model.text import TextStream
from tempo_fast.options import AskOptions, make_options


class Video:
    """A video's segments as keys and values, ready for questions.

    Made by `TempoFastPipeline.open`. segments: [(start_s, end_s)]. timings: seconds that opening it
    took by stage. A context manager: `close` frees its memory. Questions may come from several
    threads; their compressions take turns.
    """

    def __init__(
        self,
        compressor: Compressor,
        prompt: LanguagePrompt,
        encoded: EncodedVideo,
        stop_tokens: frozenset[int],
        timings: dict[str, float],
    ) -> None:
        self.timings = timings
        self.segments = encoded.plan.times
        self._compressor = compressor
        self._prompt = prompt
        self._encoded: EncodedVideo | None = encoded
        self._stop_tokens = stop_tokens
        self._lock = threading.Lock()

    def ask(
        self, query: str, *, stream: bool = False, progress: Progress | None = None, **options
    ) -> Answer | AnswerStream:
        """Answer a question about the video.

        options: those of `tempo_fast.options.AskOptions`. stream: return an AnswerStream, which
        yields the text as it is made. progress: called with (stage, done, total).
        Raises OptionError for options that can't be met, ModelError for scores that are no number.
        """
        answer = self._ask(query, make_options(AskOptions, options), progress)
        return answer if stream else answer.finish()

    def compress(
        self, query: str, *, progress: Progress | None = None, **options
    ) -> CompressedVideo:
        """The video as the language model reads it for a question; options as for `ask`."""
        clock = Clock(self._compressor.device)
        return self._compress(query, make_options(AskOptions, options), clock, progress)

    def close(self) -> None:
        """Free the keys and values. Questions after this are an error."""
        with self._lock:
            self._encoded = None

    def __enter__(self) -> Video:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _ask(self, query: str, options: AskOptions, progress: Progress | None) -> AnswerStream:
        clock = Clock(self._compressor.device)
        compressed = self._compress(query, options, clock, progress)
        with clock("prefill"):
            generation = Generation(
                self._compressor.model, compressed.inputs_embeds, options.max_new_tokens
            )
        return AnswerStream(
            compressed,
            generation,
            options,
            TextStream(self._prompt.tokenizer, options.stop),
            self._stop_tokens,
            clock,
            progress,
        )

    def _compress(
        self, query: str, options: AskOptions, clock: Clock, progress: Progress | None
    ) -> CompressedVideo:
        centres = None if self._encoded is None else self._encoded.plan.centres
        strategy = question_strategy(self._compressor, options, is_image=centres is None)
        check_question(self._prompt, query, options, strategy, len(self.segments))
        with self._lock:
            if self._encoded is None:
                raise TempoError("the video is closed; open it again to ask more")
            relevance, counts, tokens = self._select(query, options, strategy, clock, progress)
        with clock("prefill"):
            inputs_embeds = self._prompt.assemble(
                query, tokens, counts.tolist(), centres, options.tokenizer_model_max_length
            )
        return CompressedVideo(relevance, counts, tokens, inputs_embeds, self.segments)

    def _select(
        self,
        query: str,
        options: AskOptions,
        strategy: Strategy,
        clock: Clock,
        progress: Progress | None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Relevance [S], allocations [S] and the kept memory tokens [Σk, D] of a question."""
        compressor, video = self._compressor, self._encoded
        ids = compressor.prompt.query(query)
        lazy = options.lazy and not strategy.needs_every_token
        with clock("compress"):
            if lazy:
                relevance = compressor.score(video, ids, progress)
            else:
                relevance, memory = compressor.score_and_write(video, ids, progress)
        with clock("allocate"):
            counts = strategy.allocate(
                relevance,
                tokens=len(compressor.model.memory_tokens),
                budget=options.visual_token_budget,
                min_tokens=options.min_tokens,
            )
        with clock("compress"):
            if lazy:
                tokens = compressor.write(video, ids, counts.tolist())
            else:
                tokens = strategy.select(memory, counts)
        return relevance, counts, tokens


class AnswerStream:
    """An answer in the making: iterate over its pieces of text; `answer` is the whole at the end.

    The pieces joined are `answer.text`. Leaving the iteration early stops the generation.
    """

    def __init__(
        self,
        compressed: CompressedVideo,
        generation: Generation,
        options: AskOptions,
        text: TextStream,
        stop_tokens: frozenset[int],
        clock: Clock,
        progress: Progress | None,
    ) -> None:
        self._compressed = compressed
        self._generation = generation
        self._options = options
        self._text = text
        self._stop_tokens = stop_tokens
        self._clock = clock
        self._progress = progress
        self._answer: Answer | None = None
        self._pieces = self._generate()

    @property
    def answer(self) -> Answer:
        """The whole answer; a TempoError before the stream has ended."""
        if self._answer is None:
            raise TempoError("the answer is not whole yet: read the stream to its end first")
        return self._answer

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        return next(self._pieces)

    def finish(self) -> Answer:
        """Generate what is left and return the whole answer."""
        for _ in self:
            pass
        return self.answer

    def _generate(self) -> Iterator[str]:
        options, text = self._options, self._text
        sampler = Sampler(
            options.temperature, options.top_p, options.seed, self._generation.logits.device
        )
        tokens = self._generation.tokens(sampler, self._stop_tokens)
        ids: list[int] = []
        parts: list[str] = []
        while True:
            with self._clock("generate"):
                token = next(tokens, None)
            if token is None:
                break
            ids.append(token)
            piece = text.push(token)
            if self._progress:
                self._progress("generate", len(ids), options.max_new_tokens)
            if piece:
                parts.append(piece)
                yield piece
            if text.stopped:
                break
        rest = text.finish()
        if rest:
            parts.append(rest)
            yield rest
        stopped = text.stopped or ids[-1] in self._stop_tokens
        compressed = self._compressed
        self._answer = Answer(
            text="".join(parts),
            token_ids=ids,
            finish_reason="stop" if stopped else "length",
            relevance=compressed.relevance.tolist(),
            allocations=compressed.allocations.tolist(),
            segments=compressed.segments,
            prompt_tokens=len(compressed.inputs_embeds),
            timings=dict(self._clock.seconds),
        )


def question_strategy(compressor: Compressor, options: AskOptions, *, is_image: bool) -> Strategy:
    """What a question's options ask for; of an image every memory token is kept."""
    if is_image or not compressor.model.config.dynamic_compress:
        return Strategy(name="none")
    return strategy_of(options)


def check_question(
    prompt: LanguagePrompt, query: str, options: AskOptions, strategy: Strategy, segments: int
) -> None:
    """Refuse what can't be answered before anything is computed for it.

    Raises OptionError for a query that is no string, a budget under the number of segments, or a
    context too small for the question.
    """
    if not isinstance(query, str):
        raise OptionError(f"the question must be a string; got {type(query).__name__}")
    if any("\ud800" <= character <= "\udfff" for character in query):
        raise OptionError(f"the question is not valid Unicode: {query!r}")
    if strategy.shares_budget:
        check_budget(options.visual_token_budget, segments)
    prompt.visual_room(query, options.tokenizer_model_max_length)
