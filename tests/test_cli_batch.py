"""`tempo-fast batch`: grouping by video, failures, and resuming without repeating or losing."""

from __future__ import annotations

import json
import os
import sys
import types
from pathlib import Path

import pytest

from tempo_fast.answer import Answer
from tempo_fast.cli import main
from tempo_fast.cli.results import ResultFile
from tempo_fast.errors import OptionError, VideoError
from tempo_fast.options import AskOptions, OpenOptions, make_options


class FakeVideo:
    def __init__(self, pipe: FakePipeline, path: str) -> None:
        self.pipe, self.path = pipe, path

    def __enter__(self) -> FakeVideo:
        self.pipe.open_now.add(self.path)
        return self

    def __exit__(self, *_) -> None:
        self.pipe.open_now.remove(self.path)

    def ask(self, query, stream=False, progress=None, **options) -> Answer:
        make_options(AskOptions, options)
        progress("generate", 1, 9)
        self.pipe.asked.append((Path(self.path).name, query, options))
        if query in self.pipe.raising:
            raise self.pipe.raising[query]
        return Answer(
            text=f"{query} → {Path(self.path).name}",
            token_ids=[1],
            finish_reason="stop",
            relevance=[0.5],
            allocations=[8],
            segments=[(0.0, 4.0)],
            prompt_tokens=9,
        )


class FakePipeline:
    """The interface of TempoFastPipeline that `batch` uses; it records what it is asked."""

    def __init__(self) -> None:
        self.loaded, self.opened, self.asked = 0, [], []
        self.open_now: set[str] = set()
        self.unreadable: set[str] = set()
        self.raising: dict[str, BaseException] = {}

    def from_pretrained(self, model, **loading) -> FakePipeline:
        self.loaded += 1
        return self

    def open(self, video, progress=None, **options) -> FakeVideo:
        make_options(OpenOptions, options)
        assert not self.open_now, "a video is closed before the next one takes its memory"
        progress("encode", 1, 2)
        self.opened.append((video, options))
        if Path(video).name in self.unreadable:
            raise VideoError(f"{video} is no video")
        return FakeVideo(self, video)


@pytest.fixture
def pipe(monkeypatch):
    fake = FakePipeline()
    module = types.SimpleNamespace(TempoFastPipeline=fake)
    monkeypatch.setitem(sys.modules, "tempo_fast.pipeline", module)
    return fake


CASES = [
    {"video_path": "a.mp4", "query": "one", "label": {"deep": [1, "日本"]}},
    {"video_path": "sub/../b.mp4", "query": "two"},
    {"video_path": "./a.mp4", "query": "three"},
    {"video_path": "b.mp4", "query": "four", "id": 7},
]


@pytest.fixture
def cases(tmp_path) -> Path:
    (tmp_path / "sub").mkdir()
    path = tmp_path / "cases.json"
    path.write_text(json.dumps(CASES), "utf-8")
    return path


def lines(cases: Path) -> list[dict]:
    text = cases.with_suffix(".answers.jsonl").read_text("utf-8")
    assert text.endswith("\n") or not text
    return [json.loads(line) for line in text.splitlines()]


def queries(pipe: FakePipeline) -> list[str]:
    return [query for _, query, _ in pipe.asked]


def test_an_address_is_no_path(pipe, tmp_path):
    path = tmp_path / "cases.json"
    url = "https://video.example/a.mp4"
    path.write_text(json.dumps([{"video_path": url, "query": "one"}]), "utf-8")
    assert main(["batch", str(path), "--allow-remote"]) == 0
    assert pipe.opened == [(url, {"allow_remote": True})]
    assert [record["video_path"] for record in lines(path)] == [url]


def test_each_video_is_opened_once_and_each_case_gets_its_line(pipe, cases, tmp_path):
    assert main(["batch", str(cases)]) == 0
    assert [path for path, _ in pipe.opened] == [str(tmp_path / "a.mp4"), str(tmp_path / "b.mp4")]
    assert queries(pipe) == ["one", "three", "two", "four"]
    by_index = {record["index"]: record for record in lines(cases)}
    assert sorted(by_index) == [0, 1, 2, 3]
    for index, case in enumerate(CASES):
        record = by_index[index]
        assert case.items() <= record.items()
        assert record["text"].startswith(case["query"]) and record["allocations"] == [8]
    assert not pipe.open_now


def test_options_go_to_where_they_belong(pipe, cases):
    assert main(["batch", str(cases), "--video-fps", "1", "--temperature", "0.5"]) == 0
    assert [options for _, options in pipe.opened] == [{"video_fps": 1.0}] * 2
    assert [options for *_, options in pipe.asked] == [{"temperature": 0.5}] * 4
    assert lines(cases)[0]["options"] == {"video_fps": 1.0, "temperature": 0.5}


def test_a_video_that_cannot_be_read_does_not_stop_the_others(pipe, cases, capsys):
    pipe.unreadable = {"a.mp4"}
    pipe.raising = {"four": OptionError("the budget is too small")}
    assert main(["batch", str(cases)]) == 1
    records = {record["index"]: record for record in lines(cases)}
    assert all("a.mp4 is no video" in records[index]["error"] for index in (0, 2))
    assert records[3]["error"] == "the budget is too small"
    assert "error" not in records[1] and records[1]["text"]
    assert "1 answered, 3 failed, 0 were there already" in capsys.readouterr().err

    pipe.unreadable, pipe.raising = set(), {}
    pipe.asked.clear()
    assert main(["batch", str(cases)]) == 0
    assert queries(pipe) == ["one", "three", "four"]
    assert sorted(record["index"] for record in lines(cases)) == [0, 1, 2, 3]
    assert not any("error" in record for record in lines(cases))


@pytest.mark.parametrize("stop", ["one", "two", "four"])
def test_an_interrupted_run_resumes_without_repeating_or_losing(pipe, cases, stop):
    pipe.raising = {stop: KeyboardInterrupt()}
    assert main(["batch", str(cases)]) == 130
    first = lines(cases)
    assert [record["query"] for record in first] == queries(pipe)[:-1]
    pipe.raising = {}
    before = len(pipe.asked)
    assert main(["batch", str(cases)]) == 0
    assert lines(cases)[: len(first)] == first
    assert sorted(record["index"] for record in lines(cases)) == [0, 1, 2, 3]
    assert not {record["query"] for record in first} & set(queries(pipe)[before:])


def test_a_finished_batch_loads_no_model(pipe, cases, capsys):
    main(["batch", str(cases)])
    whole = lines(cases)
    assert main(["batch", str(cases)]) == 0
    assert pipe.loaded == 1 and lines(cases) == whole
    assert "0 answered, 0 failed, 4 were there already" in capsys.readouterr().err


def test_a_line_cut_anywhere_is_made_again(pipe, cases):
    main(["batch", str(cases)])
    output = cases.with_suffix(".answers.jsonl")
    whole = output.read_bytes()
    last = whole.rstrip(b"\n").rindex(b"\n") + 1
    for cut in (*range(last, last + 14), len(whole) - 2, len(whole) - 1):
        output.write_bytes(whole[:cut])
        assert main(["batch", str(cases)]) == 0
        assert output.read_bytes() == whole


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ('{"index": 0, "video_path": "a.mp4", "query": "else"}\n', "answers nothing of this list"),
        ('{"index": 9, "video_path": "a.mp4", "query": "one"}\n', "answers nothing of this list"),
        ('{"video_path": "a.mp4"}\n', "no line of answers"),
        ("[1]\n", "no line of answers"),
        ("notes\n", "no JSON"),
        ("a letter to my mother", "its end is no line"),
    ],
)
def test_a_file_of_something_else_is_refused_and_kept(pipe, cases, capsys, content, why):
    output = cases.with_suffix(".answers.jsonl")
    output.write_text(content)
    assert main(["batch", str(cases)]) == 1
    err = capsys.readouterr().err
    assert why in err and "choose another --output" in err
    assert output.read_text() == content and pipe.loaded == 0


def test_answers_made_with_other_settings_are_not_mixed_in(pipe, cases, capsys):
    main(["batch", str(cases)])
    assert main(["batch", str(cases), "--temperature", "1"]) == 1
    assert "was made with options {}, not {'temperature': 1.0}" in capsys.readouterr().err
    assert main(["batch", str(cases), "--model", "other"]) == 1
    assert pipe.loaded == 1


def test_a_line_that_cannot_be_written_leaves_no_part_of_itself(pipe, cases, monkeypatch, capsys):
    calls = []

    def fail_on_the_second(descriptor):
        calls.append(descriptor)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempo_fast.cli.results.os.fsync", fail_on_the_second)
    assert main(["batch", str(cases)]) == 1
    assert "No space left" in capsys.readouterr().err
    assert [record["query"] for record in lines(cases)] == ["one"]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("[", "is no JSON"),
        ('{"video_path": "a", "query": "b"}', "must hold a list"),
        ('["a.mp4"]', "must be an object"),
        ('[{"video_path": "a"}]', 'needs a text "query"'),
        ('[{"video_path": "", "query": "b"}]', "empty"),
        ('[{"video_path": 3, "query": "b"}]', 'needs a text "video_path"; it has 3'),
        ('[{"video_path": "a", "query": "b", "text": 1}]', "key text"),
        ('[{"video_path": "a", "query": "b", "x": NaN}]', "NaN"),
    ],
)
def test_a_list_that_is_no_list_of_cases_is_refused(pipe, tmp_path, capsys, content, why):
    path = tmp_path / "cases.json"
    path.write_text(content)
    assert main(["batch", str(path)]) == 1
    assert why in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_list_and_an_output_that_is_a_folder_are_errors(pipe, cases, tmp_path, capsys):
    assert main(["batch", str(tmp_path / "none.json")]) == 1
    assert main(["batch", str(cases), "--output", str(tmp_path)]) == 1
    assert main(["batch", str(cases), "--output", os.devnull]) == 1
    err = capsys.readouterr().err
    assert "No such file" in err and "it is a folder" in err and "no regular file" in err


def test_an_empty_list_is_done_at_once(pipe, tmp_path):
    path = tmp_path / "cases.json"
    path.write_text("[]")
    assert main(["batch", str(path)]) == 0
    assert pipe.loaded == 0


def test_a_line_is_on_the_disk_when_append_returns(cases, tmp_path):
    from tempo_fast.cli.cases import read_cases

    output = tmp_path / "out.jsonl"
    with ResultFile(output, read_cases(cases, ()), {}) as results:
        results.append(read_cases(cases, ())[0], {"text": "yes"})
        assert json.loads(output.read_text("utf-8"))["text"] == "yes"
