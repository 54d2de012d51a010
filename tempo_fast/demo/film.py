"""Films of coloured shapes: what happens when, and the frame at any moment.

The small trained Tempo learns from such films and is examined on others: `is_held_out` keeps some
combinations of colour, shape and motion out of everything that it learns from.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from tempo_fast.demo.shapes import COLOURS, SHAPES, paint

MOTIONS = {"still": (0, 0), "left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
# Every fifth combination is for examinations alone; each colour and shape meet in the other four.
HELD_OUT_OF = 5
MOST_AT_ONCE = 2
MOST_COPIES = 4
# Places where a copy may stand, as parts of the frame's side.
GRID = (0.23, 0.5, 0.77)


@dataclass(frozen=True)
class Event:
    """Copies of one coloured shape that are on screen from start to end, in seconds.

    places: (x, y) of each copy's centre halfway through. travel: how far each goes from there, both
    ways, along `motion`. radius: at the start; `growth`: its factor until the end. All lengths are
    parts of the frame's side.
    """

    colour: str
    shape: str
    motion: str
    start: float
    end: float
    places: tuple[tuple[float, float], ...]
    radius: float
    travel: float = 0.0
    growth: float = 1.0

    @property
    def count(self) -> int:
        """Copies on screen."""
        return len(self.places)

    def shows(self, time: float) -> bool:
        """Whether it is on screen at a moment."""
        return self.start <= time < self.end

    def centres(self, time: float) -> list[tuple[float, float]]:
        """(x, y) of each copy at a moment."""
        progress = (time - self.start) / (self.end - self.start)
        dx, dy = (step * self.travel * (2 * progress - 1) for step in MOTIONS[self.motion])
        return [(x + dx, y + dy) for x, y in self.places]

    def draw(self, frame: np.ndarray, time: float) -> None:
        """Paint it onto a square uint8 frame [side, side, 3] as it is at a moment."""
        side = len(frame)
        progress = (time - self.start) / (self.end - self.start)
        radius = side * self.radius * self.growth**progress
        for x, y in self.centres(time):
            colour = COLOURS[self.colour]
            paint(frame, self.shape, colour, x=x * side, y=y * side, radius=radius)


@dataclass
class Film:
    """A film of `seconds`: its events in order of their start, on a background made from `seed`."""

    seconds: float
    events: tuple[Event, ...]
    seed: int
    _backgrounds: dict[int, Background] = field(default_factory=dict, repr=False)

    def frame(self, time: float, side: int) -> np.ndarray:
        """The frame at a moment in seconds: uint8 [side, side, 3]."""
        if side not in self._backgrounds:
            self._backgrounds = {side: Background(self.seed, self.seconds, side)}
        frame = self._backgrounds[side].frame(time)
        for event in self.events:
            if event.shows(time):
                event.draw(frame, time)
        return frame


class Background:
    """Dull textures that drift and are cut from one to the next, with specks and bars on them."""

    def __init__(self, seed: int, seconds: float, side: int) -> None:
        # From the seed alone: the same at every size but for the grain.
        random = np.random.default_rng(seed)
        scenes = int(random.integers(1, 4))
        self.cuts = np.sort(random.uniform(0, seconds, scenes - 1))
        self.textures = [_texture(random, side) for _ in range(scenes)]
        self.drift = random.uniform(-0.02, 0.02, (scenes, 2)) * side
        self.specks = [_Speck(random) for _ in range(int(random.integers(0, 7)))]
        sigma = random.uniform(0, 5)
        self.grain = np.random.default_rng(seed).normal(0, sigma, (side + 16, side + 16, 1))
        self.grain = self.grain.astype(np.int16)
        self.side = side

    def frame(self, time: float) -> np.ndarray:
        """uint8 [side, side, 3], to be painted on."""
        scene = int(np.searchsorted(self.cuts, time, side="right"))
        texture, side = self.textures[scene], self.side
        spare = len(texture) - side
        # To and fro over what the texture has beyond the frame.
        across, down = (abs((move * time) % (2 * spare) - spare) for move in self.drift[scene])
        part = texture[int(down) : int(down) + side, int(across) : int(across) + side]
        shift = int(time * 997) % 256
        grain = self.grain[shift // 16 :, shift % 16 :][:side, :side]
        frame = np.clip(part + grain, 0, 255).astype(np.uint8)
        for speck in self.specks:
            speck.draw(frame, time)
        return frame


class _Speck:
    """A distraction: a small dot of any colour or a dull bar, on its way across the frame."""

    def __init__(self, random: np.random.Generator) -> None:
        self.start, self.pace = random.uniform(0, 1, 2), random.uniform(-0.04, 0.04, 2)
        self.is_bar = random.random() < 0.5
        self.size = random.uniform(0.2, 0.6) if self.is_bar else random.uniform(0.01, 0.018)
        if self.is_bar:
            self.colour = tuple(
                int(c) for c in random.integers(60, 150) + random.integers(-9, 9, 3)
            )
        else:
            self.colour = list(COLOURS.values())[random.integers(len(COLOURS))]
        self.upright = random.random() < 0.5

    def draw(self, frame: np.ndarray, time: float) -> None:
        side = len(frame)
        x, y = ((self.start + self.pace * time) % 1.0) * side
        if not self.is_bar:
            paint(frame, "circle", self.colour, x=x, y=y, radius=self.size * side)
            return
        long, thick = int(self.size * side), max(1, side // 50)
        rows, columns = (long, thick) if self.upright else (thick, long)
        frame[int(y) : int(y) + rows, int(x) : int(x) + columns] = self.colour


def _texture(random: np.random.Generator, side: int) -> np.ndarray:
    """int16 [1.25 side, 1.25 side, 3]: smooth noise of two sizes in a dull colour."""
    full = side * 5 // 4
    total = np.zeros((full, full), np.float32)
    for cells in (random.integers(2, 6), random.integers(6, 20)):
        noise = random.normal(0, 1, (int(cells), int(cells))).astype(np.float32)
        image = Image.fromarray(noise).resize((full, full), Image.Resampling.BICUBIC)
        total += random.uniform(4, 22) * np.asarray(image)
    tint = random.uniform(40, 140) + random.uniform(-12, 12, 3)
    return np.clip(total[..., None] + tint, 8, 190).astype(np.int16)


def is_held_out(colour: str, shape: str, motion: str) -> bool:
    """Whether a combination is kept for examinations."""
    number = [*COLOURS].index(colour) + SHAPES.index(shape) + [*MOTIONS].index(motion)
    return number % HELD_OUT_OF == 0


def make_film(random: np.random.Generator, *, seconds: float, events: int, held_out: bool) -> Film:
    """A film of up to `events` events, no two of the same colour and shape, at most two at once.

    held_out: only combinations that are held out; else none of those.
    """
    pairs = random.permutation(len(COLOURS) * len(SHAPES))[:events]
    made: list[Event] = []
    for pair in pairs:
        colour, shape = [*COLOURS][pair // len(SHAPES)], SHAPES[pair % len(SHAPES)]
        motions = [m for m in MOTIONS if is_held_out(colour, shape, m) == held_out]
        length = min(random.uniform(2.5, 12.0), seconds)
        start = random.uniform(0, max(seconds - length, 0))
        others = [e for e in made if e.start < start + length and start < e.end]
        if len(others) >= MOST_AT_ONCE:
            continue
        event = _event(random, colour, shape, motions, start, start + length, others)
        if event is not None:
            made.append(event)
    made.sort(key=lambda event: event.start)
    return Film(seconds, tuple(made), int(random.integers(2**31)))


def _event(
    random: np.random.Generator,
    colour: str,
    shape: str,
    motions: list[str],
    start: float,
    end: float,
    others: list[Event],
) -> Event | None:
    """An event at places that `others` leave free, or None where there are too few."""
    taken = [place for other in others for place in other.places]
    free = [
        (x, y)
        for x in GRID
        for y in GRID
        if all(max(abs(x - a), abs(y - b)) > 0.2 for a, b in taken)
    ]
    count = int(random.integers(1, MOST_COPIES + 1)) if random.random() < 0.6 else 1
    if len(free) < count:
        return None
    alone = count == 1 and not others
    chosen = random.permutation(len(free))[:count]
    jitter = random.uniform(-0.02, 0.02, (count, 2))
    places = tuple(
        (float(free[i][0] + dx), float(free[i][1] + dy))
        for i, (dx, dy) in zip(chosen, jitter, strict=True)
    )
    motion = motions[int(random.integers(len(motions)))]
    return Event(
        colour,
        shape,
        motion,
        float(start),
        float(end),
        places,
        radius=float(random.uniform(0.085, 0.16 if alone else 0.115)),
        travel=0.0 if motion == "still" else float(random.uniform(0.04, 0.12 if alone else 0.07)),
        growth=float(random.choice([1.0, 1.0, 1.25, 0.8])),
    )
