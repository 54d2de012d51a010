"""`tempo-fast demo`, as a newcomer runs it: the shipped checkpoint's answers are right."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

pytest.importorskip("av")

import tempo_fast.cli.demo as demo_command
from tempo_fast.demo import MODEL
from tempo_fast.demo.questions import TIME_TOLERANCE
from tempo_fast.demo.showing import FILM, QUESTIONS


def demo(*arguments: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "tempo_fast", "demo", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    run = demo("--output", folder)
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    answers = [json.loads((folder / f"answer-{n}.json").read_text()) for n in (1, 2, 3)]
    return run.stdout, folder, answers


def test_the_answers_are_right(shown):
    stdout, _, answers = shown
    when, count, order = (answer["text"] for answer in answers)
    triangle = next(event for event in FILM.events if event.shape == "triangle")
    assert abs(float(when.removesuffix(" seconds")) - triangle.start) <= TIME_TOLERANCE
    assert (count, order) == ("3", "green triangle")
    for question, answer in zip(QUESTIONS, answers, strict=True):
        assert f"{question}\nanswer      {answer['text']}\n" in stdout


def test_tokens_are_dense_at_the_moments_that_matter(shown):
    _, _, answers = shown
    for answer, shapes in zip(
        answers, ({"triangle"}, {"star"}, {"cross", "triangle"}), strict=True
    ):
        events = [event for event in FILM.events if event.shape in shapes]
        matters = [
            any(event.start < end and start < event.end for event in events)
            for start, end in answer["segments"]
        ]
        dense = [tokens for tokens, yes in zip(answer["allocations"], matters, strict=True) if yes]
        rest = [
            tokens for tokens, yes in zip(answer["allocations"], matters, strict=True) if not yes
        ]
        assert sum(dense) / len(dense) > 2.5 * sum(rest) / len(rest)  # at most 4: 16 against 4


def test_plots_are_drawn(shown):
    _, folder, _ = shown
    for number in (1, 2, 3):
        assert (folder / f"answer-{number}.png").read_bytes().startswith(b"\x89PNG")


def test_the_video_alone(tmp_path):
    path = tmp_path / "film.mp4"
    run = demo("--video", path)
    assert run.returncode == 0, run.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["film.mp4"]
    assert "checkpoint" not in run.stdout


def test_the_shipped_weights_are_small():
    assert (MODEL / "model.safetensors").stat().st_size <= 8e6


def test_without_matplotlib_it_says_what_would_draw(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(demo_command, "find_spec", lambda name: None)
    demo_command._save({"answer": "red"}, tmp_path / "answer-1")
    assert "with matplotlib installed it would be drawn" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["answer-1.json"]
