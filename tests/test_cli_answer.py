"""`tempo-fast answer` and `infer`: what reaches the pipeline and what comes out of it."""

from __future__ import annotations

import io
import json
import sys
import types

import pytest

from tempo_fast.answer import Answer
from tempo_fast.cli import main
from tempo_fast.errors import VideoError
from tempo_fast.options import split_options

PIECES = ("The ", "日本 ", "door.")


class FakeStream:
    def __init__(self, pipe: FakePipeline, answer: Answer) -> None:
        self.pipe, self.finished = pipe, answer

    def __iter__(self):
        for piece in PIECES:
            yield piece
            self.pipe.seen.append(sys.stdout.getvalue())
        self.answer = self.finished


class FakePipeline:
    """The interface of TempoFastPipeline; it records what it is asked."""

    error: Exception | None = None
    finish_reason = "stop"

    def __init__(self, **loading) -> None:
        self.loading, self.calls, self.seen = loading, [], []

    def from_pretrained(self, model, **loading) -> FakePipeline:
        self.loading = {"model": model, **loading}
        return self

    def __call__(self, video, query, progress=None, **options) -> Answer:
        split_options(options)
        if self.error is not None:
            raise self.error
        for stage, total in (("encode", 3), ("compress", 3), ("generate", 9)):
            progress(stage, 1, total)
        self.calls.append((video, query, options))
        return Answer(
            text="".join(PIECES),
            token_ids=[1, 2, 3],
            finish_reason=self.finish_reason,
            relevance=[0.25, 0.75],
            allocations=[4, 16],
            segments=[(0.0, 4.0), (4.0, 8.0)],
            prompt_tokens=40,
            timings={"decode": 0.5},
            memory={"placement": "device"},
        )

    def stream(self, video, query, progress=None, **options) -> FakeStream:
        return FakeStream(self, self(video, query, progress=progress, **options))


@pytest.fixture
def pipe(monkeypatch):
    fake = FakePipeline()
    module = types.SimpleNamespace(TempoFastPipeline=fake)
    monkeypatch.setitem(sys.modules, "tempo_fast.pipeline", module)
    return fake


@pytest.fixture
def clip(tmp_path) -> str:
    path = tmp_path / "clip.mp4"
    path.touch()
    return str(path)


def test_the_answer_is_printed_as_it_is_made(pipe, clip, monkeypatch):
    stdout = io.StringIO()
    monkeypatch.setattr(sys, "stdout", stdout)
    assert main(["answer", clip, "Which door?", "--max-new-tokens", "9"]) == 0
    assert pipe.seen == ["The ", "The 日本 ", "The 日本 door."]
    assert stdout.getvalue() == "The 日本 door.\n"
    assert pipe.calls == [(clip, "Which door?", {"max_new_tokens": 9})]


def test_an_address_is_no_path(pipe):
    url = "https://video.example/a.mp4"
    assert main(["answer", url, "Which?", "--json", "--allow-remote", "--remote-seconds", "9"]) == 0
    assert pipe.calls == [(url, "Which?", {"allow_remote": True, "remote_seconds": 9.0})]


def test_a_terminal_without_the_letters_gets_the_rest(pipe, clip, monkeypatch):
    stdout = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    stdout.getvalue = lambda: ""
    monkeypatch.setattr(sys, "stdout", stdout)
    assert main(["answer", clip, "Which door?"]) == 0
    assert stdout.buffer.getvalue() == b"The ?? door.\n"


def test_the_loading_flags_reach_the_pipeline(pipe, clip):
    main(["answer", clip, "?"])
    assert pipe.loading == {
        "model": "Vision-CAIR/Tempo-6B",
        "base": None,
        "device": None,
        "dtype": "auto",
        "revision": None,
        "local_files_only": False,
        "graphs": None,
        "streams": None,
    }
    flags = "--model m --base b --device cpu --dtype float32 --revision r --local-files-only "
    flags += "--graphs --no-streams"
    main(["answer", clip, "?", *flags.split()])
    assert pipe.loading == {
        "model": "m",
        "base": "b",
        "device": "cpu",
        "dtype": "float32",
        "revision": "r",
        "local_files_only": True,
        "graphs": True,
        "streams": False,
    }


def test_json_is_one_object_with_all_of_the_answer(pipe, clip, capsys):
    assert main(["answer", clip, "Which?", "--json", "--clip", "1", "5"]) == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert json.loads(out) == {
        "video": clip,
        "query": "Which?",
        "model": "Vision-CAIR/Tempo-6B",
        "options": {"clip": [1.0, 5.0]},
        "text": "The 日本 door.",
        "token_ids": [1, 2, 3],
        "finish_reason": "stop",
        "relevance": [0.25, 0.75],
        "allocations": [4, 16],
        "segments": [[0.0, 4.0], [4.0, 8.0]],
        "prompt_tokens": 40,
        "timings": {"decode": 0.5},
        "memory": {"placement": "device"},
    }


def test_output_saves_the_same_object(pipe, clip, capsys, tmp_path):
    saved = tmp_path / "answer.json"
    assert main(["answer", clip, "Which?", "--json", "--output", str(saved)]) == 0
    assert json.loads(saved.read_text("utf-8")) == json.loads(capsys.readouterr().out)


def test_a_place_that_cannot_be_written_is_told_before_the_work(pipe, clip, capsys, tmp_path):
    for place in (tmp_path, tmp_path / "none" / "answer.json"):
        assert main(["answer", clip, "?", "--output", str(place)]) == 1
        assert f"can't write {place}" in capsys.readouterr().err
    assert pipe.calls == []


def test_a_missing_video_is_told_before_the_model_is_loaded(pipe, capsys):
    assert main(["answer", "nowhere.mp4", "?"]) == 1
    assert capsys.readouterr().err == "tempo-fast: error: no such video: nowhere.mp4\n"
    assert pipe.loading == {}


def test_a_failed_answer_leaves_the_saved_one_alone(pipe, clip, capsys, tmp_path):
    saved = tmp_path / "answer.json"
    saved.write_text("the last one")
    pipe.error = VideoError("it is no video")
    assert main(["answer", clip, "?", "--json", "--output", str(saved)]) == 1
    out, err = capsys.readouterr()
    assert (out, err) == ("", "tempo-fast: error: it is no video\n")
    assert saved.read_text() == "the last one"
    assert len(list(tmp_path.iterdir())) == 2


def test_an_answer_that_was_cut_is_said_so_on_stderr(pipe, clip, monkeypatch):
    stderr = io.StringIO()
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    monkeypatch.setattr(sys, "stderr", stderr)
    pipe.finish_reason = "length"
    assert main(["answer", clip, "?"]) == 0
    assert "cut at max_new_tokens" in stderr.getvalue()


def infer(clip: str, *flags: str) -> int:
    required = ["--model_path", "m", "--video_path", clip, "--query", "Which?"]
    return main(["infer", *required, "--json", *flags])


def test_infer_takes_the_published_flags(pipe, clip, capsys):
    flags = (
        "--video_fps 1 --max_frames 64 --frame_windows 4 --frame_stride 4 --temperature 0.5 "
        "--max_new_tokens 7 --disable_dynamic_compress --tokenizer_model_max_length 4096 "
        "--visual_token_budget 512 --conv_version qwen"
    )
    assert infer(clip, *flags.split()) == 0
    assert pipe.loading["model"] == "m"
    assert pipe.calls == [
        (
            clip,
            "Which?",
            {
                "video_fps": 1.0,
                "max_frames": 64,
                "frame_windows": 4,
                "frame_stride": 4,
                "temperature": 0.5,
                "max_new_tokens": 7,
                "dynamic_compress": False,
                "tokenizer_model_max_length": 4096,
                "visual_token_budget": 512,
            },
        )
    ]


def test_infer_keeps_the_published_stride_when_the_window_changes(pipe, clip, capsys):
    assert infer(clip, "--frame_windows", "4") == 0
    assert pipe.calls[0][2] == {"frame_windows": 4, "frame_stride": 8}


def test_infer_refuses_another_prompt_format(pipe, clip, capsys):
    assert infer(clip, "--conv_version", "vicuna") == 1
    assert "--conv_version vicuna" in capsys.readouterr().err
    assert pipe.calls == []
