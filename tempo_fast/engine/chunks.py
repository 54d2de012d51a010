"""Work in chunks that shrink when memory runs out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from tempo_fast.engine.memory import MemoryPlan
from tempo_fast.engine.meter import Meter, is_out_of_memory
from tempo_fast.errors import OutOfMemoryError

T = TypeVar("T")
HELP = (
    "try dtype='bfloat16', fewer or shorter segments (max_frames, frame_windows), a smaller "
    "visual_token_budget, or end other programs that use the device's memory"
)


def in_chunks(
    tokens: Sequence[int],
    memory: MemoryPlan,
    meter: Meter,
    work: Callable[[range], T],
    before: Callable[[range], None] | None = None,
) -> Iterator[tuple[range, T]]:
    """Yield (items, work(items)) for items 0…len(tokens), each once and in order.

    tokens: of each item. A chunk has at most memory.chunk_tokens tokens, or one item. `before` is
    called first, and what it raises is raised. When `work` runs out of memory, the chunk is halved,
    in `memory` too, and work is called again with its first half: it must be able to start over.
    Raises OutOfMemoryError when that happens to one item alone.
    """
    done = 0
    while done < len(tokens):
        end, total = done + 1, tokens[done]
        while end < len(tokens) and total + tokens[end] <= memory.chunk_tokens:
            total += tokens[end]
            end += 1
        items = range(done, end)
        if before:
            before(items)
        try:
            result = work(items)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if len(items) == 1:
                raise _explained("one segment", meter) from error
        else:
            yield items, result
            done = end
            continue
        # The exception and its frames are gone now, and with them the tensors of the attempt.
        meter.release()
        memory.halve(total)


@contextmanager
def memory_explained(what: str, meter: Meter | None = None) -> Iterator[None]:
    """Turn an allocation that fails inside into an OutOfMemoryError that names `what`."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise _explained(what, meter) from error


def _explained(what: str, meter: Meter | None) -> OutOfMemoryError:
    free = None if meter is None else meter.free()
    left = "" if free is None else f" ({free / 2**30:.1f} GiB are free)"
    return OutOfMemoryError(f"the device's memory is too small for {what}{left}: {HELP}")
