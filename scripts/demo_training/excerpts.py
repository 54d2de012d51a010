"""Excerpts of films, sampled and cut into segments as the engine would do it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tempo_fast.compression.prompt import time_tag
from tempo_fast.demo.film import Film, make_film
from tempo_fast.demo.questions import KINDS, Question, make_question
from tempo_fast.demo.shapes import COLOURS, SHAPES

from .recipe import SIDE, WINDOW

# Merged patches along a side: where the auxiliary head says what it sees.
CELLS = SIDE // 32


@dataclass(frozen=True)
class Excerpt:
    """Consecutive segments of a longer film.

    frames: uint8 [S · WINDOW, SIDE, SIDE, 3]. times: of each frame, in seconds of the excerpt's own
    film. first: index of the first frame in the longer film. real_fps: sampled frames a second.
    """

    film: Film
    frames: np.ndarray
    times: np.ndarray
    first: int
    real_fps: float

    @property
    def segments(self) -> int:
        """S."""
        return len(self.times) // WINDOW

    def shown(self, question: Question) -> np.ndarray:
        """bool [S]: which segments show something that the question is about."""
        seen = np.zeros(len(self.times), bool)
        for event in question.events:
            seen |= self._shows(event)
        return seen.reshape(-1, WINDOW).any(1)

    def sees_all(self, question: Question) -> bool:
        """Whether every event that the question is about is on some frame."""
        return all(self._shows(event).any() for event in question.events)

    def answer(self, question: Question) -> str:
        """The right answer; a moment is the middle of the first segment that shows the event."""
        if question.answer is not None:
            return question.answer
        segment = int(self.shown(question).argmax())
        middle = (self.first + segment * WINDOW + WINDOW / 2) / self.real_fps
        return time_tag(middle).strip("<>")

    def cells(self) -> np.ndarray:
        """int64 [S · WINDOW / 2, CELLS², 3]: what is centred in each cell, 0 for nothing.

        Its colour, its shape, and how many copies of it there are.

        One row for a pair of frames, as its first frame is.
        """
        labels = np.zeros((len(self.times) // 2, CELLS, CELLS, 3), np.int64)
        for pair, time in enumerate(self.times[::2]):
            for event in self.film.events:
                if event.shows(time):
                    what = (
                        1 + [*COLOURS].index(event.colour),
                        1 + SHAPES.index(event.shape),
                        event.count,
                    )
                    for x, y in event.centres(time):
                        row, column = (min(CELLS - 1, max(0, int(at * CELLS))) for at in (y, x))
                        labels[pair, row, column] = what
        return labels.reshape(len(labels), -1, 3)

    def told(self, question: Question) -> np.ndarray:
        """int64 [S, 3]: colour, shape and number of what each segment shows of the question.

        Of the first event where it shows two; -100 in a segment that shows nothing of it.
        """
        labels = np.full((self.segments, 3), -100)
        for event in sorted(question.events, key=lambda event: -event.start):
            segments = self._shows(event).reshape(-1, WINDOW).any(1)
            labels[segments] = (
                [*COLOURS].index(event.colour),
                SHAPES.index(event.shape),
                event.count - 1,
            )
        return labels

    def _shows(self, event) -> np.ndarray:
        return (event.start <= self.times) & (self.times < event.end)


def make_excerpt(random: np.random.Generator, segments: int) -> Excerpt:
    """A random excerpt of so many segments, without any combination that is held out."""
    real_fps = 2.0 if random.random() < 0.6 else float(random.uniform(1.2, 2.1))
    seconds = segments * WINDOW / real_fps
    most = max(1, min(9, round(segments * random.uniform(0.5, 1.5))))
    events = int(random.integers(1, most + 1)) if random.random() < 0.95 else 0
    film = make_film(random, seconds=seconds, events=events, held_out=False)
    times = (np.arange(segments * WINDOW) + random.uniform(0, 0.2)) / real_fps
    frames = np.stack([film.frame(time, SIDE) for time in times])
    first = int(random.integers(0, 130)) * WINDOW if random.random() < 0.8 else 0
    return Excerpt(film, frames, times, first, real_fps)


def make_questions(random: np.random.Generator, excerpt: Excerpt, number: int) -> list[Question]:
    """`number` random questions about an excerpt, of different kinds as far as it has them."""
    found: list[Question] = []
    kinds = [*random.permutation(KINDS), *random.permutation(KINDS)]
    for kind in kinds:
        question = make_question(excerpt.film, str(kind), random)
        if question is not None and excerpt.sees_all(question):
            found.append(question)
    nothing = Film(excerpt.film.seconds, (), 0)  # about which "is there" can always be asked
    while len(found) < number:
        question = make_question(nothing, "presence", random)
        named = {f"{event.colour} {event.shape}" for event in excerpt.film.events}
        if question is not None and not any(name in question.text for name in named):
            found.append(question)
    return found[:number]
