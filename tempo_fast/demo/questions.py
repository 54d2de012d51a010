"""Questions about a film of shapes, with their answers and the moments that decide them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tempo_fast.demo.film import MOST_COPIES, Event, Film
from tempo_fast.demo.shapes import COLOURS, SHAPES

PLURALS = {shape: f"{shape}es" if shape.endswith("ss") else f"{shape}s" for shape in SHAPES}
# Ways to ask; the first is the one that documents show.
WORDINGS = {
    "presence": (
        "Is there {a} {colour} {shape}?",
        "Does {a} {colour} {shape} appear?",
        "Do you see {a} {colour} {shape}?",
    ),
    "colour": ("What colour is the {shape}?", "Which colour does the {shape} have?"),
    "shape": ("What shape is the {colour} object?", "Which {colour} shape appears?"),
    "count": ("How many {colour} {shapes} are there?", "How many {colour} {shapes} appear?"),
    "order": (
        "Which comes first, the {colour} {shape} or the {colour2} {shape2}?",
        "What appears first, the {colour} {shape} or the {colour2} {shape2}?",
    ),
    "time": (
        "When does the {colour} {shape} appear?",
        "At what time does the {colour} {shape} come?",
    ),
}
KINDS = tuple(WORDINGS)
# Two events that start closer than this, in seconds, are not asked for their order.
CLEARLY_APART = 5.0
# Seconds that the answer to a "when" may be off: segments of 4 s are named by their middle.
TIME_TOLERANCE = 3.0


@dataclass(frozen=True)
class Question:
    """A question of one of KINDS about a film.

    answer: the right one; None for "time", which is answered by `when`, the moment in seconds.
    events: those of the film that it is about. choices: all answers that its kind has, or ().
    """

    kind: str
    text: str
    answer: str | None
    events: tuple[Event, ...]
    choices: tuple[str, ...] = ()

    @property
    def when(self) -> float:
        """The moment in seconds at which the first of `events` starts."""
        return min(event.start for event in self.events)


Maker = Callable[[Film, np.random.Generator], Question | None]


def make_question(film: Film, kind: str, random: np.random.Generator) -> Question | None:
    """A random question of a kind, or None where the film has no clear answer to any."""
    return MAKERS[kind](film, random)


def _pick(random: np.random.Generator, options: list | tuple):
    return options[int(random.integers(len(options)))]


def _word(random: np.random.Generator, kind: str, **words: str) -> str:
    return _pick(random, WORDINGS[kind]).format(**words)


def article(word: str) -> str:
    """a or an."""
    return "an" if word[0] in "aeiou" else "a"


def names(colour: str, shape: str, number: str = "") -> dict[str, str]:
    """What a wording's fields stand for; number: of the second that it asks for."""
    return {
        f"a{number}": article(colour),
        f"colour{number}": colour,
        f"shape{number}": shape,
        f"shapes{number}": PLURALS[shape],
    }


def _named(event: Event, number: str = "") -> dict[str, str]:
    return names(event.colour, event.shape, number)


def _presence(film: Film, random: np.random.Generator) -> Question | None:
    shown = {(event.colour, event.shape): event for event in film.events}
    if random.random() < 0.5:
        if not shown:
            return None
        event = _pick(random, film.events)
        text = _word(random, "presence", **_named(event))
        return Question("presence", text, "Yes", (event,), ("Yes", "No"))
    absent = [(c, s) for c in COLOURS for s in SHAPES if (c, s) not in shown]
    # Half of the time something that shares colour or shape with what is there.
    close = [p for p in absent if any(p[0] == c or p[1] == s for c, s in shown)]
    colour, shape = _pick(random, close if close and random.random() < 0.5 else absent)
    text = _word(random, "presence", **names(colour, shape))
    return Question("presence", text, "No", (), ("Yes", "No"))


def _colour(film: Film, random: np.random.Generator) -> Question | None:
    shapes = [event.shape for event in film.events]
    alone = [event for event in film.events if shapes.count(event.shape) == 1]
    if not alone:
        return None
    event = _pick(random, alone)
    text = _word(random, "colour", **_named(event))
    return Question("colour", text, event.colour, (event,), tuple(COLOURS))


def _shape(film: Film, random: np.random.Generator) -> Question | None:
    colours = [event.colour for event in film.events]
    alone = [event for event in film.events if colours.count(event.colour) == 1]
    if not alone:
        return None
    event = _pick(random, alone)
    text = _word(random, "shape", **_named(event))
    return Question("shape", text, event.shape, (event,), SHAPES)


def _count(film: Film, random: np.random.Generator) -> Question | None:
    if not film.events:
        return None
    # Every number as often, where the film has it: most events are of one shape alone.
    number = _pick(random, sorted({event.count for event in film.events}))
    event = _pick(random, [event for event in film.events if event.count == number])
    numbers = tuple(str(n) for n in range(1, MOST_COPIES + 1))
    text = _word(random, "count", **_named(event))
    return Question("count", text, str(event.count), (event,), numbers)


def _order(film: Film, random: np.random.Generator) -> Question | None:
    if len(film.events) < 2:
        return None
    pair = [film.events[i] for i in random.permutation(len(film.events))[:2]]
    if abs(pair[0].start - pair[1].start) < CLEARLY_APART:
        return None
    names = tuple(f"{event.colour} {event.shape}" for event in pair)
    first = min(range(2), key=lambda i: pair[i].start)
    text = _word(random, "order", **_named(pair[0]), **_named(pair[1], "2"))
    return Question("order", text, names[first], tuple(pair), names)


def _time(film: Film, random: np.random.Generator) -> Question | None:
    if not film.events:
        return None
    event = _pick(random, film.events)
    return Question("time", _word(random, "time", **_named(event)), None, (event,))


MAKERS: dict[str, Maker] = {
    "presence": _presence,
    "colour": _colour,
    "shape": _shape,
    "count": _count,
    "order": _order,
    "time": _time,
}
