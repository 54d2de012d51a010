"""Training batches: excerpts and questions as padded tensors."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import IterableDataset
from transformers import PreTrainedTokenizerFast

from tempo_fast.checkpoint.config import read_config
from tempo_fast.compression.plan import plan_segments
from tempo_fast.compression.prompt import SegmentPrompt, time_tag
from tempo_fast.demo.questions import KINDS, Question
from tempo_fast.language_model.prompt import AFTER, BEFORE
from tempo_fast.tokenizer import PromptTokenizer
from tempo_fast.video.segments import Window

from .excerpts import Excerpt, make_excerpt, make_questions
from .recipe import MEMORY, SIDE, WINDOW, Stage, tempo_config

# In the language model's prompts: the place of a memory token, and of nothing.
MEMORY_PLACE, PAD = -1, -2
LEAST = 4  # memory tokens that the published allocation leaves to every segment
MISTAKEN = 0.05  # part of the other segments that keep as many as those that matter
IGNORE = -100  # what cross entropy leaves out
Batch = dict[str, Tensor]


def truncation(random: np.random.Generator, relevant: np.ndarray, deep: bool) -> np.ndarray:
    """Memory tokens that each segment keeps of a question: int64 [S], 1…MEMORY.

    LEAST; in a deep step, one time in ten, all of them, as where the budget is never short, and
    four times in ten any number from LEAST on, few more often than many. So many are kept of every
    segment, or of those that matter, as allocation gives it, and at most LEAST of the others. Some
    of these keep as many, so that how many there are doesn't say by itself what matters.
    """
    chance = random.random() if deep else 1.0
    if chance < 0.1:
        return np.full(len(relevant), MEMORY)
    most = MEMORY if chance < 0.5 else LEAST
    kept = round(float(np.exp(random.uniform(np.log(LEAST), np.log(most)))))
    rest = kept if random.random() < 0.3 else int(random.integers(1, LEAST + 1))
    many = relevant | (random.random(len(relevant)) < MISTAKEN)
    return np.where(many, kept, rest)


class Batches(IterableDataset):
    """An endless stream of batches for a stage, from step `start` on; the same for the same seed.

    With N segments and Q questions about each film, a batch has

      frames     uint8 [N, WINDOW, SIDE, SIDE, 3]
      ids        int64 [N, V] and positions int64 [N, 3, V] of the visual parts, PAD past the end
      after      int64 [N], the position of a query's first token
      film       int64 [N], which film a segment is of
      queries    int64 [films, Q, L], PAD past the end
      relevant   float32 [N, Q]; kept int64 [N, Q], memory tokens of each segment
      told       int64 [N, Q, 3] (see Excerpt.told), cells int64 [N · WINDOW / 2, CELLS², 3]
      prompts    int64 [films · Q, P], MEMORY_PLACE at memory tokens and PAD past the end
      targets    int64 [films · Q, P], IGNORE but where the next token is of the answer
      kinds      int64 [films · Q], indices of KINDS
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerFast, stage: Stage, seed: int, start: int = 0
    ) -> None:
        self.tokenizer, self.stage, self.seed, self.start = tokenizer, stage, seed, start

    def __iter__(self) -> Iterator[Batch]:
        writer = _Writer(self.tokenizer)
        step = self.start
        while True:
            yield writer.batch(np.random.default_rng((self.seed, step)), self.stage)
            step += 1


class _Writer:
    """Turns excerpts and questions into tensors."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.tokenizer = PromptTokenizer(tokenizer)
        self.prompt = SegmentPrompt(self.tokenizer, "video")
        self.vision = read_config(*tempo_config(tokenizer)).vision
        self.before, self.after = self.tokenizer.encode([BEFORE, AFTER])
        self.end = tokenizer.eos_token_id

    def batch(self, random: np.random.Generator, stage: Stage) -> Batch:
        # Drawn apart: how much is kept doesn't change what is shown and asked.
        lots = random.spawn(1)[0]
        deep = bool(lots.random() < stage.deep)
        segments = int(random.choice(stage.segments))
        films = stage.batch // segments
        rows: dict[str, list[Tensor]] = {}
        for film in range(films):
            excerpt = make_excerpt(random, segments)
            questions = make_questions(random, excerpt, stage.questions)
            self._add_excerpt(rows, excerpt, film)
            kept = [truncation(lots, excerpt.shown(question), deep) for question in questions]
            self._add_questions(rows, excerpt, questions, np.stack(kept, 1))
        return _padded(rows)

    def _add_excerpt(self, rows: dict[str, list[Tensor]], excerpt: Excerpt, film: int) -> None:
        starts = range(excerpt.first, excerpt.first + len(excerpt.times), WINDOW)
        plan = plan_segments(
            self.prompt,
            [Window(i, start, start + WINDOW) for i, start in enumerate(starts)],
            frame_size=(SIDE, SIDE),
            vision=self.vision,
            window_size=WINDOW,
            real_fps=excerpt.real_fps,
            is_image=False,
        )
        _put(rows, "frames", torch.from_numpy(excerpt.frames).unflatten(0, (-1, WINDOW)))
        _put(rows, "cells", torch.from_numpy(excerpt.cells()))
        _put(rows, "film", torch.full((len(plan.segments),), film))
        _put(rows, "after", torch.tensor([part.next_position for part in plan.segments]))
        for part in plan.segments:
            _put(rows, "ids", part.ids)
            _put(rows, "positions", part.positions.T)

    def _add_questions(
        self,
        rows: dict[str, list[Tensor]],
        excerpt: Excerpt,
        questions: list[Question],
        kept: np.ndarray,
    ) -> None:
        relevant = np.stack([excerpt.shown(question) for question in questions], 1)
        _put(rows, "relevant", torch.from_numpy(relevant).float())
        _put(rows, "kept", torch.from_numpy(kept))
        told = np.stack([excerpt.told(question) for question in questions], 1)
        _put(rows, "told", torch.from_numpy(told))
        for question, counts in zip(questions, kept.T, strict=True):
            prompt = self._before_answer(excerpt, question, counts)
            answer = [*self.tokenizer.encode_text(excerpt.answer(question)), self.end]
            ignored = [IGNORE] * (len(prompt) - 1)
            _put(rows, "queries", torch.tensor(self.prompt.query(question.text)))
            _put(rows, "prompts", torch.tensor([*prompt, *answer[:-1]]))
            _put(rows, "targets", torch.tensor([*ignored, *answer]))
            _put(rows, "kinds", torch.tensor([KINDS.index(question.kind)]))

    def _before_answer(self, excerpt: Excerpt, question: Question, counts: np.ndarray) -> list[int]:
        visual: list[int] = []
        for segment, count in enumerate(counts):
            middle = (excerpt.first + segment * WINDOW + WINDOW / 2) / excerpt.real_fps
            visual += self.tokenizer.encode([time_tag(middle)])[0] + [MEMORY_PLACE] * int(count)
        return self.before + visual + self.tokenizer.encode_text(f"\n{question.text}") + self.after


def _put(rows: dict[str, list[Tensor]], name: str, value: Tensor) -> None:
    rows.setdefault(name, []).append(value)


_LISTS = {"ids": PAD, "positions": 0, "queries": PAD, "prompts": PAD, "targets": IGNORE}


def _padded(rows: dict[str, list[Tensor]]) -> Batch:
    batch = {
        name: pad_sequence(values, batch_first=True, padding_value=_LISTS[name])
        if name in _LISTS
        else torch.cat(values)
        for name, values in rows.items()
    }
    films = int(batch["film"][-1]) + 1
    batch["queries"] = batch["queries"].unflatten(0, (films, -1))
    batch["positions"] = batch["positions"].transpose(1, 2)
    return batch
