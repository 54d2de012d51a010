"""Is a reply right? Plain rules, the same for every model and strategy."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from decimal import Decimal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tempo_fast.evaluation.question_set import Question

ARTICLES = frozenset(("a", "an", "the"))
# Dropped at both ends of a word; signs that belong to a number (-, +, %, °) are not among them.
PUNCTUATION = ".,;:!?…\"'`‘’“”«»()[]{}<>*_"
_NUMBER = re.compile(r"(?<![\w.])[-+]?[0-9]+(?:\.[0-9]+)?")
_LONE_LETTER = re.compile(r"\(?([A-Za-z])[.):]*")
_LEADING_LETTER = re.compile(r"\(?([A-Z])[.):]+\s")


def normalised(text: str) -> str:
    """`text` without what doesn't matter: case, spaces, articles, punctuation around words.

    Where nothing else is left, articles and punctuation stay, as "A" may be an answer.
    """
    plain = unicodedata.normalize("NFKC", text).casefold().split()
    words = [stripped for word in plain if (stripped := word.strip(PUNCTUATION))]
    return " ".join([word for word in words if word not in ARTICLES] or words or plain)


def first_number(text: str) -> Decimal | None:
    """The first number of `text` in digits, with sign and decimal point; None if it has none."""
    found = _NUMBER.search(text)
    return Decimal(found.group()) if found else None


def letter_of(text: str) -> int | None:
    """The place in the alphabet, from 0, of the letter that `text` chooses; None if it does not.

    "B", "b", "B.", "(B)" and "B:" choose, alone; "B. red", "(B) red" and "B: red" choose as well.
    """
    plain = text.strip().strip("*_\"'`")
    found = _LONE_LETTER.fullmatch(plain) or _LEADING_LETTER.match(plain)
    return "abcdefghijklmnopqrstuvwxyz".index(found.group(1).lower()) if found else None


def choice_of(text: str, choices: Sequence[str]) -> int | None:
    """The index of the choice that `text` names, by its text or else by its letter, or None."""
    wanted = normalised(text)
    for index, choice in enumerate(choices):
        if normalised(choice) == wanted:
            return index
    letter = letter_of(text)
    return letter if letter is not None and letter < len(choices) else None


def is_right(question: Question, reply: str) -> bool:
    """True if `reply` answers `question` rightly.

    With choices: it names the answer's choice. With a tolerance: its first number is off by at most
    that from the answer's first. Else: it equals the answer once both are normalised.
    """
    if question.choices is not None:
        right = choice_of(question.answer, question.choices)
        return right is not None and choice_of(reply, question.choices) == right
    if question.tolerance is not None:
        found, right = first_number(reply), first_number(question.answer)
        if found is None or right is None:
            return False
        return abs(found - right) <= Decimal(str(question.tolerance))
    return normalised(reply) == normalised(question.answer)
