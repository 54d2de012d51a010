"""Questions with known answers: a file of JSON lines, one question each."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from tempo_fast.address import is_url
from tempo_fast.errors import QuestionSetError
from tempo_fast.evaluation.scoring import choice_of, first_number, letter_of, normalised
from tempo_fast.options import MOST_SECONDS

Spans = tuple[tuple[float, float], ...]

NEEDED = ("video", "question", "answer")
OPTIONAL = ("choices", "type", "tolerance", "relevant")


@dataclass(frozen=True)
class Question:
    """One question about one video.

    index: its place in the set, from 0. video: as written in the set; file: where that is. answer:
    the right reply; with choices, the text or the letter of one of them. type: the group whose
    accuracy it counts in. tolerance: how far the reply's first number may be off. relevant: spans
    (start_s, end_s) of the video that matter; empty where nothing in it does, None where that isn't
    known.
    """

    index: int
    video: str
    file: str
    question: str
    answer: str
    choices: tuple[str, ...] | None = None
    type: str | None = None
    tolerance: float | None = None
    relevant: Spans | None = None

    def asked(self, letters: bool) -> str:
        """What the model is asked: the question as written, with `letters` the choices behind it.

        They are lines "A. …", and the last line asks for the letter.
        """
        if not letters or self.choices is None:
            return self.question
        lines = [
            f"{letter}. {choice}"
            for letter, choice in zip(ascii_uppercase, self.choices, strict=False)
        ]
        return "\n".join((self.question, *lines, "Answer with the letter."))


@dataclass(frozen=True)
class QuestionSet:
    """name: of the file. sha256: of its bytes, in hexadecimal. questions: in its order."""

    name: str
    sha256: str
    questions: tuple[Question, ...]


def read_question_set(path: Path) -> QuestionSet:
    """Read a file of JSON lines. Videos in it are relative to the file itself; blank lines count
    for nothing.

    Raises QuestionSetError, with the number of the line, for anything that is no question.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise QuestionSetError(f"can't read {path}: {error.strerror}") from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise QuestionSetError(f"{path} is no UTF-8 text (byte {error.start})") from error
    questions: list[Question] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            where = f"line {number} of {path}"
            questions.append(_read(where, line, len(questions), path.parent))
    if not questions:
        raise QuestionSetError(f"{path} holds no question; it needs one JSON object a line")
    return QuestionSet(path.name, hashlib.sha256(data).hexdigest(), tuple(questions))


def _read(where: str, line: str, index: int, folder: Path) -> Question:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise QuestionSetError(f"{where} is no JSON: {error}") from error
    if not isinstance(record, dict):
        raise QuestionSetError(f"{where} must be an object with {', '.join(NEEDED)}")
    if unknown := sorted(set(record) - {*NEEDED, *OPTIONAL}):
        raise QuestionSetError(
            f"{where} has the unknown field {', '.join(unknown)}; the fields are: "
            + ", ".join((*NEEDED, *OPTIONAL))
        )
    for name in (*NEEDED, "type"):
        value = record.get(name)
        if not (isinstance(value, str) and value.strip()) and (name in record or name != "type"):
            raise QuestionSetError(f"{where} needs a text {name!r}; it has {value!r}")
    video = record["video"]
    choices, tolerance = record.get("choices"), record.get("tolerance")
    if "choices" in record:
        _check_choices(where, choices, record["answer"])
    if "tolerance" in record:
        _check_tolerance(where, record)
    return Question(
        index=index,
        video=video,
        file=video if is_url(video) else str((folder / video).resolve()),
        question=record["question"],
        answer=record["answer"],
        choices=None if choices is None else tuple(choices),
        type=record.get("type"),
        tolerance=tolerance,
        relevant=_spans(where, record["relevant"]) if "relevant" in record else None,
    )


def _check_choices(where: str, choices: Any, answer: str) -> None:
    texts = isinstance(choices, list) and all(isinstance(c, str) and c.strip() for c in choices)
    if not texts or not 2 <= len(choices) <= len(ascii_uppercase):
        raise QuestionSetError(
            f"{where} needs 2 to {len(ascii_uppercase)} texts as 'choices'; it has {choices!r}"
        )
    seen: dict[str, str] = {}
    for index, choice in enumerate(choices):
        if (other := seen.setdefault(normalised(choice), choice)) is not choice:
            raise QuestionSetError(f"{where} has choices that read the same: {other!r}, {choice!r}")
        letter = letter_of(choice)
        if letter is not None and letter != index and letter < len(choices):
            raise QuestionSetError(
                f"{where} has the choice {choice!r}, which reads as the letter of another; put "
                "the choices in the order of their letters"
            )
    if choice_of(answer, choices) is None:
        raise QuestionSetError(
            f"{where} has the answer {answer!r}, which is neither the text nor the letter of one "
            f"of its choices: {', '.join(choices)}"
        )


def _check_tolerance(where: str, record: dict[str, Any]) -> None:
    if not _is_number(record["tolerance"]) or record["tolerance"] < 0:
        raise QuestionSetError(
            f"{where} needs a number of at least 0 as 'tolerance'; it has {record['tolerance']!r}"
        )
    if "choices" in record:
        raise QuestionSetError(f"{where} has choices and a tolerance: give one of them")
    if first_number(record["answer"]) is None:
        raise QuestionSetError(
            f"{where} has a tolerance, so its answer must hold a number in digits; it is "
            f"{record['answer']!r}"
        )


def _spans(where: str, spans: Any) -> Spans:
    if not isinstance(spans, list) or not all(map(_is_span, spans)):
        raise QuestionSetError(
            f"{where} needs a list of [start, end] in seconds, 0 <= start < end, as 'relevant'; "
            f"it has {spans!r}"
        )
    return tuple((float(start), float(end)) for start, end in spans)


def _is_span(span: Any) -> bool:
    return (
        isinstance(span, Sequence)
        and len(span) == 2
        and all(map(_is_number, span))
        and 0 <= span[0] < span[1]
    )


def _is_number(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and abs(value) <= MOST_SECONDS
