"""`tempo-fast infer`: the flags of the published inference script, with the same meanings."""

from __future__ import annotations

import argparse
from typing import Any

from tempo_fast.cli.answer import add_output_flags, answer_one
from tempo_fast.cli.flags import add_option_flags, given_options
from tempo_fast.cli.model import add_loading_flags
from tempo_fast.errors import OptionError
from tempo_fast.options import OpenOptions

PUBLISHED_OPTIONS = (
    "video_fps",
    "max_frames",
    "frame_windows",
    "frame_stride",
    "temperature",
    "max_new_tokens",
    "tokenizer_model_max_length",
    "visual_token_budget",
)


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "infer",
        help="answer one question, with the flags of the published script",
        description="Answer one question about one video, with the flags of the published script.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--model_path", dest="model", required=True, help="a Tempo checkpoint: folder or hub id"
    )
    parser.add_argument("--video_path", dest="video", required=True, help="the video")
    parser.add_argument("--query", required=True, help="what you want to know")
    parser.add_argument(
        "--conv_version", default="qwen", help="prompt format: only qwen (the default) exists"
    )
    parser.add_argument(
        "--disable_dynamic_compress",
        dest="dynamic_compress",
        action="store_false",
        default=argparse.SUPPRESS,
        help="keep every memory token of every segment",
    )
    add_option_flags(parser, PUBLISHED_OPTIONS, separator="_")
    # The published stride stays 8 when only the window is changed; elsewhere it follows the window.
    parser.set_defaults(frame_stride=OpenOptions.frame_windows)
    add_loading_flags(parser)
    add_output_flags(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    if not args.conv_version.startswith("qwen"):
        raise OptionError(
            f"--conv_version {args.conv_version}: a Tempo has only the prompt format qwen; "
            "leave the flag out"
        )
    return answer_one(args, given_options(args))
