"""The command line as such: flags derived from the options, exit codes, errors, progress bars."""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path

import pytest

import tempo_fast.cli as cli
from tempo_fast import onednn
from tempo_fast.cli.files import dumps, write_atomically
from tempo_fast.cli.flags import HELP, add_option_flags, given_options, option_fields
from tempo_fast.cli.progress import Progress
from tempo_fast.errors import OptionError, TempoError
from tempo_fast.options import AskOptions, OpenOptions

ROOT = Path(__file__).parents[1]


def parse(*argv: str) -> dict:
    parser = argparse.ArgumentParser()
    add_option_flags(parser)
    return given_options(parser.parse_args(argv))


def test_every_option_has_a_flag_with_help_and_no_flag_is_left_over():
    names = {field.name for kind in (OpenOptions, AskOptions) for field in fields(kind)}
    assert set(HELP) == names == {field.name for field, _ in option_fields()}


def test_only_the_options_that_are_given_are_passed_on():
    assert parse() == {}
    assert parse("--video-fps", "1", "--no-lazy") == {"video_fps": 1.0, "lazy": False}


def test_options_get_their_types():
    options = parse(
        *("--clip", "3", "7.5", "--stop", "END", "--stop", "\n", "--seed", "5", "--fps", "2"),
        *("--frame-stride", "4", "--pruning", "topk", "--no-dynamic-compress"),
    )
    assert options == {
        "clip": (3.0, 7.5),
        "stop": ("END", "\n"),
        "seed": 5,
        "fps": 2.0,
        "frame_stride": 4,
        "pruning": "topk",
        "dynamic_compress": False,
    }
    assert type(options["seed"]) is int and type(options["fps"]) is float


def test_help_shows_the_defaults_of_the_options():
    parser = argparse.ArgumentParser()
    add_option_flags(parser)
    text = " ".join(parser.format_help().split())
    assert f"(default: {AskOptions.visual_token_budget})" in text
    assert f"(default: {OpenOptions.video_fps})" in text


def test_an_option_out_of_range_is_an_error():
    with pytest.raises(OptionError, match="temperature"):
        parse("--temperature", "-1")


@pytest.mark.parametrize(
    "argv", [[], ["nothing"], ["answer", "a.mp4"], ["answer", "a", "b", "--video-fp", "1"]]
)
def test_a_usage_error_ends_with_2(argv, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(argv)
    assert stopped.value.code == 2
    assert "usage: tempo-fast" in capsys.readouterr().err


def run_raising(monkeypatch, error: BaseException, *flags: str) -> int:
    def run(args):
        raise error

    def add_parser(subparsers):
        subparsers.add_parser("fail").set_defaults(run=run)

    monkeypatch.setattr(cli, "COMMANDS", (argparse.Namespace(add_parser=add_parser),))
    return cli.main([*flags[:1], "fail", *flags[1:]])


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (TempoError("no such\nthing"), 1, "tempo-fast: error: no such thing\n"),
        (OSError(28, "No space left on device"), 1, "error: [Errno 28] No space left on device\n"),
        (KeyboardInterrupt(), 130, "tempo-fast: interrupted\n"),
        (RuntimeError("odd"), 1, "error: unexpected RuntimeError: odd (--debug shows where)\n"),
    ],
)
def test_errors_are_one_line_and_an_exit_code(monkeypatch, capsys, error, code, line):
    assert run_raising(monkeypatch, error) == code
    out, err = capsys.readouterr()
    assert out == "" and err.endswith(line) and err.count("\n") == 1


@pytest.mark.parametrize("flags", [("--debug",), ("--no-such",)[:0]])
def test_debug_shows_the_traceback(monkeypatch, capsys, flags):
    assert run_raising(monkeypatch, TempoError("broken"), *flags) == 1
    assert ("Traceback" in capsys.readouterr().err) is bool(flags)


def test_debug_is_understood_before_and_after_the_command():
    parser = cli.build_parser()
    for argv in (["--debug", "info"], ["info", "--debug"]):
        assert parser.parse_args(argv).debug is True
    assert parser.parse_args(["info"]).debug is False


def python(*argv: str, **options) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, *argv], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options
    )


def test_help_comes_without_the_heavy_imports():
    code = (
        "import sys\n"
        "from tempo_fast.cli import main\n"
        "try:\n    main(['answer', '--help'])\n"
        "except SystemExit as stopped:\n"
        "    assert stopped.code == 0\n"
        "print(sorted({'torch', 'transformers', 'matplotlib', 'av'} & set(sys.modules)))\n"
    )
    out, err = python("-c", code).communicate(timeout=60)
    assert out.splitlines()[-1] == b"[]", err.decode()


def test_a_closed_pipe_is_quiet():
    code = (
        "import sys\n"
        "from tempo_fast import cli\n"
        "def run(args):\n    print('x' * 10_000_000)\n    return 0\n"
        "def add(subparsers):\n    subparsers.add_parser('talk').set_defaults(run=run)\n"
        "cli.COMMANDS = (type('talk', (), {'add_parser': staticmethod(add)}),)\n"
        "sys.exit(cli.main(['talk']))\n"
    )
    process = python("-c", code)
    process.stdout.read(10)
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(timeout=60) == cli.PIPE_CLOSED


def test_json_is_readable_where_it_can_be_and_escaped_where_not():
    assert dumps("日本") == '"日本"'
    assert json.loads(dumps("日本", encoding="ascii")) == "日本"
    assert json.loads(dumps("\ud800")) == "\ud800"
    with pytest.raises(ValueError):
        dumps(float("nan"))


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    target = tmp_path / "link.json"
    (tmp_path / "real.json").write_text("old")
    target.symlink_to("real.json")
    write_atomically(target, b"new")
    assert target.is_symlink() and (tmp_path / "real.json").read_text() == "new"

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempo_fast.cli.files.os.fsync", full)
    with pytest.raises(OSError):
        write_atomically(target, b"newer")
    assert target.read_text() == "new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.json", "real.json"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("terminal", [True, False])
def test_bars_are_for_terminals_and_for_what_takes_over_a_second(monkeypatch, terminal):
    stderr = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr(sys, "stderr", stderr)
    with Progress(hidden=("generate",)) as progress:
        for done in range(1, 11):
            progress("encode", done, 10)
        assert stderr.getvalue() == ""
        progress("generate", 1, 30)
        progress("compress", 1, 30)
        time.sleep(1.1)
        progress("generate", 2, 30)
        progress("compress", 2, 30)
        shown = stderr.getvalue()
        assert ("compress" in shown and "2/30" in shown) is terminal
        assert "generate" not in shown
    assert stderr.getvalue().endswith("\r") is terminal


def test_info_names_versions_and_devices(capsys):
    assert cli.main(["info", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["versions"]["torch"] and facts["machine"]["devices"][0] == "cpu"
    assert (facts["engine"]["graphs"], facts["engine"]["streams"]) == ("off", "off")
    assert cli.main(["info"]) == 0
    assert "attention" in capsys.readouterr().out
    found = facts["attention"]
    assert found[found["decoders"]] == found[found["vision"]] == found["sdpa"] == "available"
    if facts["machine"]["devices"] == ["cpu"]:
        taken = "onednn" if onednn.AVAILABLE and onednn.AMD else "sdpa"
        assert (found["decoders"], found["vision"]) == (taken, taken)
        assert "needs an NVIDIA GPU" in found["fa3"]


def test_info_gives_the_sizes_of_a_checkpoint(capsys):
    from safetensors import safe_open

    model = ROOT / "tests/golden/checkpoint/tiny-tempo"
    assert cli.main(["info", "--model", str(model), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)["model"]
    with safe_open(model / "model.safetensors", "pt") as file:
        shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118 (a file can't be iterated)
    projector = [shape for name, shape in shapes.items() if "mm_projector" in name]
    sizes = [shape[0] * (shape[1] if len(shape) > 1 else 1) for shape in projector]
    assert facts["parameters"]["projector"] == sum(sizes)
    assert facts["bytes_on_disk"] == (model / "model.safetensors").stat().st_size
    memory = facts["memory_of_1024_frames"]
    assert memory["placement"] == "device" and memory["segment_cache"] > memory["weights"] > 0
