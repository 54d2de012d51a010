"""Is a reply right: by its text, by the letter of a choice, by its first number."""

from __future__ import annotations

import pytest

from tempo_fast.evaluation.question_set import Question
from tempo_fast.evaluation.scoring import choice_of, first_number, is_right, letter_of, normalised

CHOICES = ("a red circle", "the blue square", "both", "neither")


def question(answer: str, **fields) -> Question:
    return Question(0, "v.mp4", "/v.mp4", "What?", answer, **fields)


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("  The Red\n square. ", "red square"),
        ("“a cat”, (the dog)!", "cat dog"),
        ("**Yes**", "yes"),
        ("-3 %", "-3 %"),
        ("1.5", "1.5"),
        ("A.", "a"),
        ("the", "the"),
        ("?!", "?!"),
        ("ＲＥＤ", "red"),
        ("an anthem", "anthem"),
    ],
)
def test_only_what_matters_is_compared(text, plain):
    assert normalised(text) == plain


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("at 12.5 s", "12.5"),
        ("<4.0s>", "4.0"),
        ("from 16 to 24", "16"),
        ("-3 or 2", "-3"),
        ("12.", "12"),
        ("between 5-7", "5"),
        ("t=0", "0"),
        ("twelve", None),
        ("version1", None),
        ("", None),
    ],
)
def test_the_first_number(text, number):
    found = first_number(text)
    assert (None if found is None else str(found)) == number


@pytest.mark.parametrize("text", ["B", "b", " B.", "(B)", "(b)", "B)", "B:", "**B**", "B. red"])
def test_a_letter_chooses(text):
    assert letter_of(text) == 1


@pytest.mark.parametrize("text", ["A red circle", "BB", "b. red", "B.C. in Rome", "", "1", "Bob"])
def test_other_words_choose_no_letter(text):
    assert letter_of(text) is None


@pytest.mark.parametrize(
    ("reply", "index"),
    [
        ("red circle", 0),
        ("A red circle.", 0),
        ("THE BLUE SQUARE", 1),
        ("C", 2),
        ("(D) neither", 3),
        ("B. a red circle", 1),
        ("E", None),
        ("circle", None),
        ("I think B", None),
    ],
)
def test_a_choice_is_named_by_text_or_letter(reply, index):
    assert choice_of(reply, CHOICES) == index


@pytest.mark.parametrize("answer", ["the blue square", "B"])
def test_choices_are_compared_as_choices(answer):
    asked = question(answer, choices=CHOICES)
    assert all(is_right(asked, reply) for reply in ("B", "(B)", "blue square", "B. blue square"))
    assert not any(is_right(asked, reply) for reply in ("A", "both", "", "a square"))


def test_without_choices_a_letter_is_only_text():
    assert is_right(question("circle"), "The circle.")
    assert not is_right(question("circle"), "A")
    assert not is_right(question("circle"), "a red circle")


def test_a_tolerance_includes_its_own_value_exactly():
    asked = question("12.2 seconds", tolerance=0.1)
    assert is_right(asked, "12.3") and is_right(asked, "at 12.1 s, or 50")  # not so in floats
    assert not is_right(asked, "12.31") and not is_right(asked, "soon")
    assert is_right(question("-3", tolerance=0), "-3.0")
