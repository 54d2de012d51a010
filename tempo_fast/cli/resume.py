"""Many answers, each video opened once, from where an earlier run was stopped."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from tqdm import tqdm

from tempo_fast.cli.progress import Progress, make_bar
from tempo_fast.cli.results import Entry, ResultFile
from tempo_fast.errors import TempoError

if TYPE_CHECKING:
    from tempo_fast.pipeline import TempoFastPipeline
    from tempo_fast.session import Video


class Asked(Entry, Protocol):
    """An entry of the list that is answered from a video."""

    @property
    def file(self) -> str:
        """Where its video is."""


Ask = Callable[["Video", Asked, Progress], dict[str, Any]]


def answer_waiting(
    results: ResultFile,
    entries: Sequence[Asked],
    start: Callable[[], tuple[TempoFastPipeline, Ask]],
    open_options: dict[str, Any],
    noun: str,
) -> int:
    """Append an answer to `results` for every entry that has none, and return how many failed.

    start: the pipeline, and what asks an opened video about an entry; called if anything is to be
    answered. noun: what an entry is called in what is told on stderr.
    """
    kept = len(results.done)
    waiting = [entry for entry in entries if entry.index not in results.done]
    failed = 0
    if waiting:
        pipe, ask = start()
        with make_bar(f"{noun}s", len(waiting), noun) as bar:
            for entry, outcome in _outcomes(pipe, waiting, open_options, ask):
                results.append(entry, outcome)
                if "error" in outcome:
                    failed += 1
                    note = f"tempo-fast: {noun} {entry.index} failed: {outcome['error']}"
                    tqdm.write(note, file=sys.stderr)
                bar.update()
    counts = f"{len(waiting) - failed} answered, {failed} failed, {kept} were there already"
    print(f"tempo-fast: {counts}: {results.path}", file=sys.stderr)
    return failed


def _outcomes(
    pipe: TempoFastPipeline, entries: Sequence[Asked], open_options: dict[str, Any], ask: Ask
) -> Iterator[tuple[Asked, dict[str, Any]]]:
    """Answer video by video; what is wrong with one video doesn't stop the others."""
    by_video: dict[str, list[Asked]] = {}
    for entry in entries:
        by_video.setdefault(entry.file, []).append(entry)
    for file, group in by_video.items():
        try:
            with Progress() as progress:
                video = pipe.open(file, progress=progress, **open_options)
        except TempoError as error:
            yield from ((entry, {"error": str(error)}) for entry in group)
            continue
        with video:
            for entry in group:
                try:
                    with Progress() as progress:
                        outcome = ask(video, entry, progress)
                except TempoError as error:
                    yield entry, {"error": str(error)}
                else:
                    yield entry, outcome
