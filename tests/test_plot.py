"""The picture of an answer, and the command that draws it."""

from __future__ import annotations

import io
import json
import sys
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from PIL import Image

from tempo_fast.cli import main
from tempo_fast.errors import TempoError
from tempo_fast.plot import RELEVANCE, TOKENS, draw_answer, format_time


def record(count: int = 12, **changes) -> dict:
    return {
        "query": "What does it cost, $5 or $6?",
        "text": "Five dollars.",
        "options": {"visual_token_budget": 120},
        "relevance": [0.1 + 0.05 * i for i in range(count)],
        "allocations": [4 + i for i in range(count)],
        "segments": [(4.0 * i, 4.0 * (i + 1)) for i in range(count)],
        **changes,
    }


def texts(answer: dict) -> str:
    root = ElementTree.fromstring(draw_answer(answer, "svg"))
    return "\n".join("".join(each.itertext()).strip() for each in root.iter() if "text" in each.tag)


def coloured(answer: dict, colour: str) -> np.ndarray:
    """The columns of the picture in which a colour is seen, each with its height in pixels."""
    image = np.asarray(Image.open(io.BytesIO(draw_answer(answer))).convert("RGB"), dtype=int)
    wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    heights = (np.abs(image - wanted).max(-1) <= 4).sum(0)
    return heights[heights > 5]


@pytest.mark.parametrize("colour", [RELEVANCE, TOKENS])
def test_bars_are_as_high_and_as_wide_as_the_numbers(colour):
    values = [0.2, 0.8, 0.4]
    segments = [(0.0, 4.0), (4.0, 8.0), (8.0, 16.0)]
    tokens = [int(100 * value) for value in values]
    options = {"dynamic_compress": False}
    answer = record(
        relevance=values, allocations=tokens, segments=segments, options=options, query="", text=""
    )
    heights = coloured(answer, colour)
    quarter = len(heights) // 4
    middles = [heights[quarter // 2], heights[quarter + quarter // 2], heights[3 * quarter]]
    assert np.allclose(np.array(middles) / middles[1], [0.25, 1, 0.5], atol=0.05)


def test_the_texts_say_question_answer_total_and_budget():
    words = texts(record())
    assert "What does it cost, $5 or $6?" in words and "Five dollars." in words
    assert "114 memory tokens in 12 segments, of a budget of 120" in words
    assert "equal share" in words and "10 each" in words


@pytest.mark.parametrize("options", [{"dynamic_compress": False}, {"strategy": "none"}])
def test_without_a_budget_there_is_no_line_for_it(options):
    words = texts(record(options=options))
    assert "budget" not in words and "share" not in words


def test_long_texts_are_shortened():
    words = texts(record(query="word " * 100, text="answer " * 500))
    assert words.count("word") < 35 and words.count("answer") < 50 and "…" in words


def test_time_is_that_of_the_video_not_of_the_clip():
    assert "00:05" in texts(record()) and "01:05" not in texts(record())
    assert "01:05" in texts(record(options={"clip": [60, 108]}))


def test_an_hour_of_video_has_hours_on_its_axis():
    hour = [(60.0 * i, 60.0 * (i + 1)) for i in range(70)]
    words = texts(record(70, segments=hour))
    assert "1:00:00" in words and "0:10:00" in words


@pytest.mark.parametrize(
    ("seconds", "hours", "step", "text"),
    [
        (0, False, 1, "00:00"),
        (75, False, 5, "01:15"),
        (3599.96, True, 60, "1:00:00"),
        (7325, True, 60, "2:02:05"),
        (2.5, False, 0.5, "00:02.5"),
    ],
)
def test_times_are_written_as_clocks_show_them(seconds, hours, step, text):
    assert format_time(seconds, hours, step) == text


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"segments": [(0.0, 1.0)]}, "don't belong together"),
        ({"relevance": None}, "needs relevance, allocations and segments"),
        ({"error": "it is no video"}, "it is no video"),
        ({"relevance": [], "allocations": [], "segments": []}, "no segments of time"),
        ({"relevance": [1.0], "allocations": [3], "segments": [(0, 0)]}, "no segments of time"),
    ],
)
def test_what_cannot_be_drawn_is_an_error(changes, why):
    with pytest.raises(TempoError, match=why):
        draw_answer(record(**changes))


def test_an_unknown_format_is_an_error():
    with pytest.raises(TempoError, match=r"\.docx"):
        draw_answer(record(), "docx")


def test_without_matplotlib_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(TempoError, match="pip install matplotlib"):
        draw_answer(record())


@pytest.fixture
def lines(tmp_path):
    path = tmp_path / "answers.jsonl"
    records = [record(12, index=4), {"index": 2, "error": "no video"}]
    path.write_text("".join(json.dumps(each) + "\n" for each in records))
    return path


def test_the_command_writes_the_picture(tmp_path):
    source, image = tmp_path / "answer.json", tmp_path / "out.png"
    source.write_text(json.dumps(record(), indent=2))
    assert main(["plot", str(source), str(image)]) == 0
    with Image.open(image) as picture:
        assert picture.size == (1500, 780)


def test_a_line_of_a_batch_is_chosen_by_its_index(lines, tmp_path, capsys):
    image = tmp_path / "out.png"
    assert main(["plot", str(lines), str(image), "--index", "4"]) == 0
    assert image.read_bytes() == draw_answer(record(12, index=4))
    image.unlink()
    for flags, why in (
        ([], "2 answers: choose one with --index"),
        (["--index", "3"], "no answer with index 3"),
        (["--index", "2"], "it failed: no video"),
    ):
        assert main(["plot", str(lines), str(image), *flags]) == 1
        assert why in capsys.readouterr().err
    assert not image.exists()


@pytest.mark.parametrize("content", ["", "[1, 2]", "three", "{}"])
def test_a_file_without_an_answer_is_an_error(tmp_path, capsys, content):
    source = tmp_path / "answer.json"
    source.write_text(content)
    assert main(["plot", str(source), str(tmp_path / "out.png")]) == 1
    assert capsys.readouterr().err.startswith("tempo-fast: error: ")
    assert not (tmp_path / "out.png").exists()
