"""`tempo-fast batch cases.json`: many questions, each video opened once, resumable."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from tempo_fast.cli.cases import Case, read_cases
from tempo_fast.cli.flags import add_option_flags, given_options
from tempo_fast.cli.model import add_model_flags, load_pipeline
from tempo_fast.cli.progress import Progress, make_bar
from tempo_fast.cli.results import ResultFile
from tempo_fast.errors import TempoError
from tempo_fast.options import OpenOptions

if TYPE_CHECKING:
    from tempo_fast.pipeline import TempoFastPipeline


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "batch",
        help="answer a list of questions; resumes where it was stopped",
        description='Answer a JSON list of {"video_path": …, "query": …}. Writes one JSON line per '
        "answer as it is ready; run again, it goes on where it was stopped and tries failed "
        "cases again.",
        allow_abbrev=False,
    )
    parser.add_argument("cases", metavar="CASES", type=Path, help="the JSON list")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="where the answers go (default: CASES with the ending .answers.jsonl)",
    )
    add_model_flags(parser)
    add_option_flags(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    options = given_options(args)
    settings = {
        "model": args.model,
        "base": args.base,
        "revision": args.revision,
        "dtype": args.dtype,
        "options": options,
    }
    cases = read_cases(args.cases, _answer_fields() | {"index", "error", *settings})
    output = args.output or args.cases.with_suffix(".answers.jsonl")
    with ResultFile(output, cases, settings) as results:
        kept = len(results.done)
        waiting = [case for case in cases if case.index not in results.done]
        failed = 0
        if waiting:
            pipe = load_pipeline(args)
            with make_bar("cases", len(waiting), "case") as bar:
                for case, outcome in _outcomes(pipe, waiting, options):
                    results.append(case, outcome)
                    if "error" in outcome:
                        failed += 1
                        note = f"tempo-fast: case {case.index} failed: {outcome['error']}"
                        tqdm.write(note, file=sys.stderr)
                    bar.update()
    counts = f"{len(waiting) - failed} answered, {failed} failed, {kept} were there already"
    print(f"tempo-fast: {counts}: {output}", file=sys.stderr)
    return 1 if failed else 0


def _answer_fields() -> set[str]:
    from tempo_fast.answer import Answer

    return {field.name for field in fields(Answer)}


def _outcomes(
    pipe: TempoFastPipeline, cases: Sequence[Case], options: dict[str, Any]
) -> Iterator[tuple[Case, dict[str, Any]]]:
    """Answer the cases video by video; what is wrong with one video doesn't stop the others."""
    names = {field.name for field in fields(OpenOptions)}
    open_options = {name: value for name, value in options.items() if name in names}
    ask_options = {name: value for name, value in options.items() if name not in names}
    by_video: dict[str, list[Case]] = {}
    for case in cases:
        by_video.setdefault(case.file, []).append(case)
    for file, group in by_video.items():
        try:
            with Progress() as progress:
                video = pipe.open(file, progress=progress, **open_options)
        except TempoError as error:
            yield from ((case, {"error": str(error)}) for case in group)
            continue
        with video:
            for case in group:
                try:
                    with Progress() as progress:
                        answer = video.ask(case.query, progress=progress, **ask_options)
                except TempoError as error:
                    yield case, {"error": str(error)}
                else:
                    yield case, answer.to_dict()
