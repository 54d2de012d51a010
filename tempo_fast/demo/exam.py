"""Held-out films with questions, as videos and the JSONL that `tempo-fast ablate` reads."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tempo_fast.demo.film import Film, make_film
from tempo_fast.demo.questions import KINDS, TIME_TOLERANCE, Question, make_question
from tempo_fast.demo.video import write_film

# Seeds of examinations; training counts its own from 0.
FIRST_SEED = 1_000_000
EVENTS = (3, 9)


def make_exam(
    folder: Path,
    *,
    films: int,
    seconds: tuple[float, float],
    questions: int = 2,
    seed: int = 0,
    side: int = 256,
    fps: int = 4,
) -> Path:
    """Write films and questions about them; return the path of `questions.jsonl`.

    films: how many. seconds: least and most of a film's length. questions: of each kind about each
    film, where it has clear answers. Every combination of colour, shape and motion is one that the
    shipped checkpoint never saw in training. The same arguments give the same films and questions.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number in range(films):
        random = np.random.default_rng((FIRST_SEED + seed, number))
        film = make_film(
            random,
            seconds=float(random.uniform(*seconds)),
            events=int(random.integers(*EVENTS)),
            held_out=True,
        )
        path = write_film(film, folder / f"film-{number:03d}.mp4", side=side, fps=fps)
        lines += [_line(path.name, question) for question in _ask(film, random, questions)]
    target = folder / "questions.jsonl"
    target.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return target


def _ask(film: Film, random: np.random.Generator, number: int) -> Iterator[Question]:
    asked = set()
    for kind in KINDS:
        for _ in range(number):
            question = make_question(film, kind, random)
            if question is not None and question.text not in asked:
                asked.add(question.text)
                yield question


def _line(video: str, question: Question) -> dict:
    line = {
        "video": video,
        "type": question.kind,
        "question": question.text,
        "answer": question.answer or f"{question.when:.1f} seconds",
        "relevant": [[round(e.start, 3), round(e.end, 3)] for e in question.events],
    }
    if question.choices:
        line["choices"] = list(question.choices)
    if question.answer is None:
        line["tolerance"] = TIME_TOLERANCE
    return line
