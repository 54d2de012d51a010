"""Films of shapes: what they show, what is asked, and what is kept for examinations."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

pytest.importorskip("av")

from tempo_fast.demo.exam import make_exam
from tempo_fast.demo.film import MOST_AT_ONCE, MOTIONS, Event, Film, is_held_out, make_film
from tempo_fast.demo.questions import CLEARLY_APART, KINDS, MAKERS, WORDINGS, make_question
from tempo_fast.demo.shapes import COLOURS, SHAPES, paint
from tempo_fast.demo.showing import FILM, QUESTIONS
from tempo_fast.demo.video import write_film
from tempo_fast.video import load_frames


def films(number: int, *, held_out: bool = False) -> list[Film]:
    random = np.random.default_rng(number)
    return [
        make_film(random, seconds=60.0, events=int(random.integers(1, 9)), held_out=held_out)
        for _ in range(number)
    ]


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_is_painted_around_its_centre_and_nowhere_else(shape):
    frame = np.zeros((80, 80, 3), np.uint8)
    paint(frame, shape, (200, 100, 50), x=40, y=30, radius=15)
    rows, columns = frame.any(-1).nonzero()
    assert abs(columns.mean() - 40) < 1
    assert abs(rows.mean() - 30) < 4  # a triangle's middle lies a little higher
    assert rows.min() >= 14
    assert rows.max() <= 46
    assert (frame.reshape(-1, 3) == (200, 100, 50)).all(1).sum() > 100


def test_shapes_differ():
    frames = []
    for shape in SHAPES:
        frame = np.zeros((64, 64, 3), np.uint8)
        paint(frame, shape, (255, 255, 255), x=32, y=32, radius=20)
        frames.append(frame[..., 0] > 127)
    for i, one in enumerate(frames):
        for other in frames[:i]:
            assert (one ^ other).sum() > 150


@pytest.mark.parametrize(("x", "y"), [(-30, 20), (0, 0), (63.9, 63.9), (20, 200)])
def test_a_shape_partly_or_wholly_outside_is_cut(x, y):
    large = np.zeros((464, 464, 3), np.uint8)
    small = np.zeros((64, 64, 3), np.uint8)
    paint(large, "star", (9, 99, 199), x=x + 200, y=y + 200, radius=17)
    paint(small, "star", (9, 99, 199), x=x, y=y, radius=17)
    np.testing.assert_array_equal(small, large[200:264, 200:264])


def test_an_unknown_shape_is_an_error():
    with pytest.raises(ValueError, match="there are circle"):
        paint(np.zeros((9, 9, 3), np.uint8), "blob", (1, 2, 3), x=4, y=4, radius=2)


def test_films_keep_their_rules():
    for film in films(60):
        pairs = [(event.colour, event.shape) for event in film.events]
        assert len(set(pairs)) == len(pairs)
        assert [e.start for e in film.events] == sorted(e.start for e in film.events)
        for event in film.events:
            assert 0 <= event.start < event.end <= film.seconds
            at_once = [e for e in film.events if e.start < event.end and event.start < e.end]
            assert len(at_once) <= MOST_AT_ONCE + 1  # two others, one after the other


def test_held_out_films_share_no_combination_with_the_others():
    def combinations(made: list[Film]) -> set[tuple[str, str, str]]:
        return {(e.colour, e.shape, e.motion) for film in made for e in film.events}

    learnt, examined = combinations(films(150)), combinations(films(150, held_out=True))
    assert not learnt & examined
    everything = [(c, s, m) for c in COLOURS for s in SHAPES for m in MOTIONS]
    assert sum(is_held_out(*each) for each in everything) * 5 == pytest.approx(
        len(everything), abs=5
    )
    # Each colour with each shape has one motion that is held out and others that aren't.
    assert {pair[:2] for pair in examined} == {pair[:2] for pair in learnt}


def test_the_same_film_is_drawn_at_every_size():
    film = films(3)[1]
    event = film.events[0]
    moment = (event.start + event.end) / 2
    colour = np.array(COLOURS[event.colour])
    small, large = film.frame(moment, 96), film.frame(moment, 192)
    shown = [(abs(frame.astype(int) - colour).max(-1) < 40) for frame in (small, large)]
    assert shown[1].mean() == pytest.approx(shown[0].mean(), rel=0.2)
    np.testing.assert_array_equal(film.frame(moment, 96), small)


def truth(kind: str, film: Film, text: str) -> str:
    """The answer to a question, worked out from its words."""
    words = text.rstrip("?").replace(",", "").split()
    named = [
        event
        for event in film.events
        if event.colour in words and {event.shape, f"{event.shape}s", f"{event.shape}es"} & {*words}
    ]
    if kind == "presence":
        return "Yes" if named else "No"
    if kind == "colour":
        return next(e.colour for e in film.events if e.shape in words)
    if kind == "shape":
        return next(e.shape for e in film.events if e.colour in words)
    if kind == "count":
        return str(named[0].count)
    if kind == "order":
        pairs = [e for e in film.events if f"{e.colour} {e.shape}" in text]
        first = min(pairs, key=lambda e: e.start)
        return f"{first.colour} {first.shape}"
    return f"{named[0].start}"


# Before the first letters of the colours.
ARTICLES = {("an", "o"), *(("a", letter) for letter in "rgbypw")}


@pytest.mark.parametrize("kind", KINDS)
def test_the_answers_are_true(kind):
    random = np.random.default_rng(1)
    asked = [(film, make_question(film, kind, random)) for film in films(120)]
    asked = [(film, question) for film, question in asked if question is not None]
    assert len(asked) > 25
    for film, question in asked:
        expected = truth(kind, film, question.text)
        found = str(question.when) if question.answer is None else question.answer
        assert found == expected, question.text
        if question.choices:
            assert question.answer in question.choices
    if kind == "presence":
        assert {re.search(r" (an?) (\w)", q.text).groups() for _, q in asked} == ARTICLES
        assert 0.3 < np.mean([question.answer == "Yes" for _, question in asked]) < 0.7
    if kind == "order":
        for _, question in asked:
            first, second = sorted(event.start for event in question.events)
            assert second - first >= CLEARLY_APART


def test_every_kind_has_words_and_a_maker():
    assert set(MAKERS) == set(WORDINGS)


def test_where_nothing_happens_only_presence_can_be_asked():
    nothing, random = Film(10.0, (), 3), np.random.default_rng(0)
    for kind in KINDS:
        found = [make_question(nothing, kind, random) for _ in range(8)]
        answers = {question.answer for question in found if question is not None}
        assert answers == ({"No"} if kind == "presence" else set())


def test_a_video_shows_the_film(tmp_path):
    event = Event("blue", "square", "right", 2.0, 5.0, ((0.5, 0.5),), 0.2, travel=0.1)
    path = write_film(Film(8.0, (event,), 5), tmp_path / "film.mp4", side=128, fps=8)
    assert [file.name for file in tmp_path.iterdir()] == ["film.mp4"]
    frames, fps = load_frames(path)
    assert (len(frames), fps) == (16, 2)
    shown = (abs(frames.astype(int) - COLOURS["blue"]).max(-1) < 40).mean((1, 2)) > 0.01
    times = shown.nonzero()[0] / fps
    # Sampled frames lie up to half a second apart.
    assert abs(times.min() - event.start) <= 0.5
    assert abs(times.max() - event.end) <= 0.75


def test_an_exam_is_the_same_every_time(tmp_path):
    arguments = {"films": 2, "seconds": (6.0, 9.0), "side": 64, "fps": 4}
    first = make_exam(tmp_path / "one", **arguments)
    second = make_exam(tmp_path / "two", **arguments)
    assert first.read_text() == second.read_text()
    lines = [json.loads(line) for line in first.read_text().splitlines()]
    assert {line["video"] for line in lines} == {"film-000.mp4", "film-001.mp4"}
    assert all((tmp_path / "one" / line["video"]).is_file() for line in lines)
    assert {"presence", "time"} <= {line["type"] for line in lines}


def test_the_showing_is_held_out_and_its_questions_have_answers():
    assert all(is_held_out(e.colour, e.shape, e.motion) for e in FILM.events)
    assert truth("time", FILM, QUESTIONS[0]) == "21.0"
    assert truth("count", FILM, QUESTIONS[1]) == "3"
    assert truth("order", FILM, QUESTIONS[2]) == "green triangle"
