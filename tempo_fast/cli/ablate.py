"""`tempo-fast ablate QUESTIONS.jsonl`: what each allocation strategy is worth at each budget."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tempo_fast.cli.files import check_destination, check_video, dumps, write_atomically
from tempo_fast.cli.flags import add_option_flags, given_options, split_given
from tempo_fast.cli.machine import device_name, versions
from tempo_fast.cli.model import (
    add_model_flags,
    checkpoint_sha256,
    load_pipeline,
    model_settings,
)
from tempo_fast.cli.progress import Progress
from tempo_fast.cli.results import ResultFile
from tempo_fast.cli.resume import Ask, answer_waiting
from tempo_fast.errors import OptionError, TempoError
from tempo_fast.evaluation.ablation import NAMES, Cell, ask_cell, parse_budget, plan_cells
from tempo_fast.evaluation.question_set import QuestionSet, read_question_set
from tempo_fast.options import OpenOptions

if TYPE_CHECKING:
    from tempo_fast.pipeline import TempoFastPipeline
    from tempo_fast.session import Video

BUDGETS = "1/frame,2/frame,4/frame"
MAX_NEW_TOKENS = 32
# A clip would shift the times that a question set names.
OPENING = {field.name for field in fields(OpenOptions)} - {"clip"}


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "ablate",
        help="compare allocation strategies on questions with known answers",
        description="Ask a set of questions with every allocation strategy at the same budgets; "
        "print accuracies with 95 % intervals. Every reply is kept as it is made; run again, it "
        "goes on where it was stopped.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "questions",
        metavar="QUESTIONS",
        type=Path,
        help="JSON lines of video, question, answer and, where wanted, choices, type, tolerance, "
        "relevant (see the README)",
    )
    parser.add_argument(
        "--strategies",
        default=",".join(NAMES),
        metavar="NAME,…",
        help="which to compare (default: all, %(default)s)",
    )
    parser.add_argument(
        "--budgets",
        default=BUDGETS,
        metavar="N,…",
        help="memory tokens for each sampled frame, such as 0.5/frame, or of the whole video, "
        "such as 4096 (default: %(default)s)",
    )
    parser.add_argument(
        "--seeds",
        default="0,1,2",
        metavar="N,…",
        help="with which the random strategies are repeated (default: %(default)s)",
    )
    parser.add_argument(
        "--letters",
        action="store_true",
        help="ask with the choices as lines A., B., … and for the letter of one",
    )
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N questions")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="the result as JSON (default: QUESTIONS with the ending .ablation.json); the replies "
        "as they are made go beside it, with the ending .jsonl",
    )
    parser.add_argument(
        "--plot", type=Path, metavar="FILE", help="also draw it: .png, .pdf, .svg …"
    )
    parser.add_argument(
        "--max-new-tokens",
        type=int,
        default=MAX_NEW_TOKENS,
        metavar="N",
        help="longest reply, in tokens (default: %(default)s)",
    )
    add_model_flags(parser)
    add_option_flags(parser, OPENING | {"min_tokens", "tokenizer_model_max_length"})
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    options = given_options(args)
    open_options, ask_options = split_given(options)
    output = args.output or args.questions.with_suffix(".ablation.json")
    lines = output.with_suffix(".jsonl")
    if output == lines or args.questions.resolve() in (output.resolve(), lines.resolve()):
        raise OptionError(
            f"--output {output} would write over the questions or its own replies, which go to "
            f"{lines}; give it the ending .json and another name"
        )
    check_destination(output)
    if args.plot is not None:
        _check_plot(args.plot)
    question_set = read_question_set(args.questions)
    cells = _plan(args, question_set)
    settings = {
        **model_settings(args),
        "sha256": checkpoint_sha256(args),
        "versions": versions(),
        "options": options,
    }
    with ResultFile(lines, cells, settings) as results:
        waiting = (cell.file for cell in cells if cell.index not in results.done)
        for file in dict.fromkeys(waiting):
            check_video(file)
        known = {line["question"] for line in results.read() if "relevance" in line}
        failed = answer_waiting(
            results, cells, lambda: _start(args, ask_options, known), open_options, "answer"
        )
        records = sorted(results.read(), key=lambda line: line["index"])
    _report(args, output, question_set, cells, settings, records)
    return 1 if failed else 0


def _check_plot(path: Path) -> None:
    from tempo_fast.evaluation.plot import check_image_format

    check_destination(path)
    check_image_format(_image_format(path))


def _image_format(path: Path) -> str:
    return path.suffix.removeprefix(".") or "png"


def _plan(args: argparse.Namespace, question_set: QuestionSet) -> list[Cell]:
    if args.limit is not None and args.limit < 1:
        raise OptionError(f"--limit must be at least 1; got {args.limit}")
    try:
        seeds = [int(each) for each in _split(args.seeds)]
    except ValueError as error:
        raise OptionError(f"--seeds must be whole numbers; got {args.seeds!r}") from error
    return plan_cells(
        question_set.questions[: args.limit],
        _split(args.strategies),
        [parse_budget(each) for each in _split(args.budgets)],
        seeds,
        letters=args.letters,
    )


def _split(text: str) -> list[str]:
    return [part for each in text.split(",") if (part := each.strip())]


def _start(
    args: argparse.Namespace, ask_options: dict[str, Any], known: set[int]
) -> tuple[TempoFastPipeline, Ask]:
    """The pipeline, and what asks for a cell. known: questions whose relevance is on file."""
    pipe = load_pipeline(args)
    if not pipe.config.dynamic_compress:
        raise TempoError(
            f"{args.model} keeps every memory token whatever the budget (dynamic_compress is off "
            "in its config.json): there is nothing to compare"
        )
    device = device_name(pipe.device)

    def ask(video: Video, cell: Cell, progress: Progress) -> dict[str, Any]:
        outcome = ask_cell(video, cell, pipe.config.memory_tokens, ask_options, progress)
        # The relevance is the same for every strategy and budget: one line of a question has it.
        if cell.question.index in known:
            outcome.pop("relevance", None)
            outcome.pop("segments", None)
        elif "relevance" in outcome:
            known.add(cell.question.index)
        return {**outcome, "device": device}

    return pipe, ask


def _report(
    args: argparse.Namespace,
    output: Path,
    question_set: QuestionSet,
    cells: list[Cell],
    settings: dict[str, Any],
    records: list[dict[str, Any]],
) -> None:
    """Score the replies, print the tables, write the result and the plot."""
    from tempo_fast.evaluation.scoring import is_right
    from tempo_fast.evaluation.summary import measure_relevance, summarise
    from tempo_fast.evaluation.table import format_rows, format_separation, format_types

    rows = summarise(cells, records)
    questions = question_set.questions[: args.limit]
    found = measure_relevance(questions, ((each["question"], each) for each in records))
    replies = []
    for cell, record in zip(cells, records, strict=True):
        reply = {name: value for name, value in record.items() if name not in settings}
        if "text" in reply:
            reply["right"] = is_right(cell.question, reply["text"])
        replies.append(reply)
    result = {
        **settings,
        "question_set": {
            "name": question_set.name,
            "sha256": question_set.sha256,
            "questions": len(questions),
        },
        "devices": sorted({each["device"] for each in replies if "device" in each}),
        "relevance": asdict(found),
        "rows": [asdict(row) for row in rows],
        "questions": [asdict(each) for each in questions],
        "replies": replies,
    }
    write_atomically(output, _one_item_a_line(result).encode())
    blocks = (format_rows(rows), format_types(rows), format_separation(found))
    print("\n\n".join(block for block in blocks if block))
    print(f"tempo-fast: wrote {output}", file=sys.stderr)
    if args.plot is not None:
        from tempo_fast.evaluation.plot import draw_ablation

        title = f"{question_set.name}: {len(questions)} questions to {Path(args.model).name}"
        write_atomically(args.plot, draw_ablation(rows, title, _image_format(args.plot)))
        print(f"tempo-fast: wrote {args.plot}", file=sys.stderr)


def _one_item_a_line(result: dict[str, Any]) -> str:
    """A JSON object with each of its entries, and each item of its lists, on a line of its own."""
    entries = []
    for name, value in result.items():
        text = dumps(value)
        if isinstance(value, list) and value:
            text = "[\n  " + ",\n  ".join(map(dumps, value)) + "\n ]"
        entries.append(f" {dumps(name)}: {text}")
    return "{\n" + ",\n".join(entries) + "\n}\n"
