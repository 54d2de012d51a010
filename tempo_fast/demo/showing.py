"""The film that `tempo-fast demo` shows, and what it asks about it."""

from __future__ import annotations

from tempo_fast.demo.film import Event, Film
from tempo_fast.demo.questions import PLURALS, article

SECONDS = 240.0
MIDDLE = ((0.5, 0.5),)
# Every combination of colour, shape and motion is one that the checkpoint never saw in training.
FILM = Film(
    SECONDS,
    (
        Event("green", "triangle", "right", 21.0, 30.0, MIDDLE, 0.13, travel=0.1),
        Event("purple", "cross", "right", 57.0, 66.0, ((0.5, 0.3),), 0.12, travel=0.1),
        Event(
            "yellow",
            "star",
            "down",
            93.0,
            104.0,
            ((0.25, 0.3), (0.5, 0.5), (0.75, 0.3)),
            0.11,
            travel=0.05,
        ),
        Event("blue", "square", "right", 148.0, 156.0, ((0.45, 0.6),), 0.13, travel=0.12),
        Event("white", "ring", "down", 187.0, 199.0, ((0.3, 0.5), (0.7, 0.5)), 0.11, travel=0.07),
    ),
    seed=1,
)
QUESTIONS = (
    "When does the green triangle appear?",
    "How many yellow stars are there?",
    "Which comes first, the purple cross or the green triangle?",
)


def describe(event: Event) -> str:
    """An event in words."""
    one = event.count == 1
    what = f"{article(event.colour)} {event.colour} {event.shape}"
    if not one:
        what = f"{event.count} {event.colour} {PLURALS[event.shape]}"
    moves = "stand" if event.motion == "still" else "move"
    way = "" if event.motion == "still" else f" {event.motion}"
    return f"{what} {moves}{'s' if one else ''}{way} from {event.start:.0f} to {event.end:.0f} s"
