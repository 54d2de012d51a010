"""Work in chunks that shrink when memory runs out."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from tempo_fast.engine.crew import Crew
from tempo_fast.engine.memory import MemoryPlan
from tempo_fast.engine.meter import Meter, is_out_of_memory
from tempo_fast.errors import OutOfMemoryError

T = TypeVar("T")
# Less isn't worth a thread.
FEWEST_TOKENS = 256
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
    *,
    threads: int = 1,
) -> Iterator[tuple[range, T]]:
    """Yield (items, work(items)) for items 0…len(tokens), each once and in order.

    tokens: of each item. A chunk has at most memory.chunk_tokens tokens, or one item. threads: that
    work on chunks beside each other; chunks are then small enough that each has one. `before` is
    called first, in the caller's thread, and what it raises is raised. When `work` runs out of
    memory, the chunk is halved, in `memory` too, and work is called again with its first half and
    with what was begun behind it: it must be able to start over.
    Raises OutOfMemoryError when that happens to one item alone.
    """
    share = max(FEWEST_TOKENS, -(-sum(tokens) // threads)) if threads > 1 else math.inf

    def chunk(first: int) -> range:
        most, end, total = min(memory.chunk_tokens, share), first + 1, tokens[first]
        while end < len(tokens) and total + tokens[end] <= most:
            total += tokens[end]
            end += 1
        return range(first, end)

    if not tokens or len(chunk(0)) == len(tokens):
        threads = 1
    begun: deque[tuple[range, Callable[[], T]]] = deque()
    ahead = 0
    with Crew(threads) as crew:
        while begun or ahead < len(tokens):
            if ahead < len(tokens) and len(begun) < crew.ahead:
                items = chunk(ahead)
                if before:
                    before(items)
                begun.append((items, crew.begin(work, items)))
                ahead = items.stop
                continue
            items, finish = begun.popleft()
            try:
                result = finish()
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if len(items) == 1:
                    raise _explained("one segment", meter) from error
            else:
                yield items, result
                continue
            crew.settle()
            # The exceptions and their frames go now, and with them the tensors of the attempts.
            del finish
            begun.clear()
            meter.release()
            memory.halve(sum(tokens[item] for item in items))
            ahead = items.start


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
