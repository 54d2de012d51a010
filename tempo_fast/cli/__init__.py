"""The command line: `tempo-fast COMMAND`, or `python -m tempo_fast COMMAND`.

Each command is a module with `add_parser(subparsers)` and `run(args) -> int`. They import torch and
transformers inside `run` only, so that `--help` and usage errors come at once.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path

from tempo_fast import __version__
from tempo_fast.cli import ablate, answer, batch, convert, demo, infer, info, plot, profile, report
from tempo_fast.errors import TempoError

COMMANDS = (answer, batch, ablate, infer, plot, convert, info, demo, profile, report)
FAILED, INTERRUPTED, PIPE_CLOSED = 1, 130, 141


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands; `args.run(args)` runs the chosen one."""
    parser = argparse.ArgumentParser(
        prog="tempo-fast",
        description="Answer questions about long videos with a Tempo checkpoint.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"tempo-fast {__version__}")
    parser.set_defaults(debug=False)
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add_parser(subparsers)
    for each in (parser, *subparsers.choices.values()):
        each.add_argument(
            "--debug",
            action="store_true",
            default=argparse.SUPPRESS,  # so that the one before the command isn't reset by it
            help="show the traceback of an error",
        )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    0: done. 1: an error, told in one line on stderr. 130: interrupted. 141: nobody reads stdout any
    more. A usage error ends in argparse's SystemExit with code 2.
    """
    if sys.stdout is None:  # closed by whoever started us: there is nobody to answer
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115 - open for as long as we run
    args = build_parser().parse_args(argv)
    try:
        with warnings.catch_warnings():
            if not args.debug:  # what libraries say to their developers is no help to a user
                warnings.simplefilter("ignore", FutureWarning)
                warnings.simplefilter("ignore", DeprecationWarning)
            code = args.run(args)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return _fail(args, "interrupted", INTERRUPTED)
    except BrokenPipeError:
        # Python flushes stdout once more on its way out, and would complain there.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    except (TempoError, OSError) as error:
        return _fail(args, f"error: {_one_line(error)}", FAILED)
    except Exception as error:
        kind = type(error).__name__
        hint = "" if args.debug else " (--debug shows where)"
        return _fail(args, f"error: unexpected {kind}: {_one_line(error)}{hint}", FAILED)


def _fail(args: argparse.Namespace, message: str, code: int) -> int:
    if args.debug:
        traceback.print_exc()
    print(f"tempo-fast: {message}", file=sys.stderr)
    return code


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
