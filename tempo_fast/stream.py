"""An answer in the making."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tempo_fast.answer import Answer, CompressedVideo
from tempo_fast.engine.chunks import memory_explained
from tempo_fast.engine.clock import Clock
from tempo_fast.engine.memory import MemoryPlan
from tempo_fast.engine.meter import meter_of
from tempo_fast.errors import TempoError
from tempo_fast.language_model.generation import Generation
from tempo_fast.language_model.sampling import Sampler
from tempo_fast.language_model.text import TextStream
from tempo_fast.options import AskOptions
from tempo_fast.tokenizer import PromptTokenizer


class AnswerStream:
    """An answer in the making: iterate over its pieces of text; `answer` is the whole at the end.

    The pieces joined are `answer.text`. Leaving the iteration early stops the generation; `close`,
    or the end of a `with` block, also frees its kv cache at once.
    """

    def __init__(
        self,
        compressed: CompressedVideo,
        generation: Generation,
        tokenizer: PromptTokenizer,
        stop_tokens: frozenset[int],
        options: AskOptions,
        clock: Clock,
        progress: Callable[[str, int, int], None] | None,
        memory: MemoryPlan,
    ) -> None:
        self._answers: list[Answer] = []
        # The generator holds no reference to this object, so that neither keeps the other alive.
        self._pieces = _generate(
            compressed,
            generation,
            TextStream(tokenizer, options.stop),
            stop_tokens,
            options,
            clock,
            progress,
            memory,
            self._answers,
        )

    @property
    def answer(self) -> Answer:
        """The whole answer; a TempoError before the stream has ended."""
        if not self._answers:
            raise TempoError("the answer is not whole yet: read the stream to its end first")
        return self._answers[0]

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        return next(self._pieces)

    def finish(self) -> Answer:
        """Generate what is left and return the whole answer."""
        for _ in self:
            pass
        return self.answer

    def close(self) -> None:
        """Stop the generation and free what it holds."""
        self._pieces.close()

    def __enter__(self) -> AnswerStream:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _generate(
    compressed: CompressedVideo,
    generation: Generation,
    text: TextStream,
    stop_tokens: frozenset[int],
    options: AskOptions,
    clock: Clock,
    progress: Callable[[str, int, int], None] | None,
    memory: MemoryPlan,
    answers: list[Answer],
) -> Iterator[str]:
    """Yield the answer's text in pieces, then leave the whole answer in `answers`."""
    device = generation.logits.device
    sampler = Sampler(options.temperature, options.top_p, options.seed, device)
    tokens = generation.tokens(sampler, stop_tokens)
    meter = meter_of(device)
    ids: list[int] = []
    parts: list[str] = []
    while not text.stopped:
        with clock("generate"), memory_explained("a longer answer", meter):
            token = next(tokens, None)
        if token is None:
            break
        ids.append(token)
        parts.append(text.push(token))
        if progress:
            progress("generate", len(ids), options.max_new_tokens)
        if parts[-1]:
            yield parts[-1]
    # After a stop string there would be more; the steps are free for the next answer now.
    tokens.close()
    parts.append(text.finish())
    if parts[-1]:
        yield parts[-1]
    stopped = text.stopped or ids[-1] in stop_tokens
    answers.append(
        Answer(
            text="".join(parts),
            token_ids=ids,
            finish_reason="stop" if stopped else "length",
            relevance=compressed.relevance.tolist(),
            allocations=compressed.allocations.tolist(),
            segments=compressed.segments,
            prompt_tokens=len(compressed.inputs_embeds),
            timings=dict(clock.seconds),
            memory=memory.decisions(),
        )
    )
