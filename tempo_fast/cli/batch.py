"""`tempo-fast batch cases.json`: many questions, each video opened once, resumable."""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tempo_fast.cli.cases import Case, read_cases
from tempo_fast.cli.flags import add_option_flags, given_options, split_given
from tempo_fast.cli.model import add_model_flags, load_pipeline, model_settings
from tempo_fast.cli.progress import Progress
from tempo_fast.cli.results import ResultFile
from tempo_fast.cli.resume import answer_waiting

if TYPE_CHECKING:
    from tempo_fast.session import Video


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
    open_options, ask_options = split_given(options)
    settings = {**model_settings(args), "options": options}
    cases = read_cases(args.cases, _answer_fields() | {"index", "error", *settings})

    def ask(video: Video, case: Case, progress: Progress) -> dict[str, Any]:
        return video.ask(case.query, progress=progress, **ask_options).to_dict()

    output = args.output or args.cases.with_suffix(".answers.jsonl")
    with ResultFile(output, cases, settings) as results:
        failed = answer_waiting(
            results, cases, lambda: (load_pipeline(args), ask), open_options, "case"
        )
    return 1 if failed else 0


def _answer_fields() -> set[str]:
    from tempo_fast.answer import Answer

    return {field.name for field in fields(Answer)}
