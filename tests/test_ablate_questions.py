"""Question sets: what is read of a file, and what is refused with the number of the line."""

from __future__ import annotations

import hashlib
import json

import pytest

from tempo_fast.errors import QuestionSetError, TempoError
from tempo_fast.evaluation.question_set import read_question_set

PLAIN = {"video": "a.mp4", "question": "Which?", "answer": "red"}


@pytest.fixture
def written(tmp_path):
    def write(*records: object) -> object:
        path = tmp_path / "set.jsonl"
        lines = (each if isinstance(each, str) else json.dumps(each) for each in records)
        path.write_text("\n".join(lines), "utf-8")
        return path

    return write


def test_every_field_is_read(written, tmp_path):
    full = PLAIN | {
        "video": "sub/b.mp4",
        "choices": ["red", "blue"],
        "type": "colour",
        "relevant": [[1, 2.5], [4, 5]],
    }
    timed = PLAIN | {"video": "https://v.example/c.mp4", "answer": "3 s", "tolerance": 1}
    path = written(full, "", timed | {"relevant": []}, PLAIN)
    found = read_question_set(path)
    assert found.name == "set.jsonl"
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    first, second, third = found.questions
    assert (first.index, first.video, first.file) == (0, "sub/b.mp4", str(tmp_path / "sub/b.mp4"))
    assert (first.choices, first.type, first.tolerance) == (("red", "blue"), "colour", None)
    assert first.relevant == ((1.0, 2.5), (4.0, 5.0))
    assert (second.index, second.tolerance, second.relevant) == (1, 1, ())
    assert second.file == "https://v.example/c.mp4"
    assert third.relevant is None and third.choices is None and third.type is None


def test_letters_are_asked_for_only_where_there_are_choices(written):
    path = written(PLAIN | {"choices": ["red", "blue"]}, PLAIN)
    chosen, plain = read_question_set(path).questions
    assert chosen.asked(letters=True) == "Which?\nA. red\nB. blue\nAnswer with the letter."
    assert chosen.asked(letters=False) == plain.asked(letters=True) == "Which?"


@pytest.mark.parametrize(
    ("record", "why"),
    [
        ("{", "is no JSON"),
        ("[1]", "must be an object with video, question, answer"),
        ({"video": "a.mp4", "question": "?"}, "needs a text 'answer'; it has None"),
        (PLAIN | {"answer": 3}, "needs a text 'answer'; it has 3"),
        (PLAIN | {"video": " "}, "needs a text 'video'"),
        (PLAIN | {"type": None}, "needs a text 'type'; it has None"),
        (PLAIN | {"option": 1, "id": 2}, "unknown field id, option; the fields are: video, quest"),
        (PLAIN | {"choices": ["red"]}, "2 to 26 texts as 'choices'"),
        (PLAIN | {"choices": "red, blue"}, "2 to 26 texts as 'choices'"),
        (PLAIN | {"choices": ["red", 3]}, "2 to 26 texts as 'choices'"),
        (PLAIN | {"choices": ["green", "blue"]}, "neither the text nor the letter"),
        (PLAIN | {"choices": ["red", "The red."]}, "read the same: 'red', 'The red.'"),
        (PLAIN | {"choices": ["red", "A"]}, "reads as the letter of another"),
        (PLAIN | {"tolerance": 1}, "must hold a number in digits"),
        (PLAIN | {"answer": "3", "tolerance": -1}, "number of at least 0"),
        (PLAIN | {"answer": "3", "tolerance": True}, "number of at least 0"),
        (PLAIN | {"choices": ["red", "3"], "answer": "3", "tolerance": 1}, "give one of them"),
        (PLAIN | {"relevant": [[2, 1]]}, "a list of [start, end] in seconds"),
        (PLAIN | {"relevant": [[1, 1]]}, "a list of [start, end] in seconds"),
        (PLAIN | {"relevant": [1, 2]}, "a list of [start, end] in seconds"),
        (PLAIN | {"relevant": ["12"]}, "a list of [start, end] in seconds"),
        (PLAIN | {"relevant": None}, "a list of [start, end] in seconds"),
        (PLAIN | {"relevant": [[0, float("inf")]]}, "a list of [start, end] in seconds"),
        (PLAIN | {"relevant": [[0, 10**400]]}, "a list of [start, end] in seconds"),
    ],
)
def test_what_is_no_question_is_refused_by_its_line(written, record, why):
    path = written(PLAIN, "", record)
    with pytest.raises(QuestionSetError) as raised:
        read_question_set(path)
    assert str(raised.value).startswith(f"line 3 of {path}") and why in str(raised.value)
    assert isinstance(raised.value, TempoError)


def test_a_file_without_questions_is_refused(written, tmp_path):
    with pytest.raises(QuestionSetError, match="holds no question"):
        read_question_set(written("", " "))
    with pytest.raises(QuestionSetError, match="can't read"):
        read_question_set(tmp_path / "none.jsonl")
    (tmp_path / "latin.jsonl").write_bytes(b'{"video": "\xe9"}')
    with pytest.raises(QuestionSetError, match="no UTF-8"):
        read_question_set(tmp_path / "latin.jsonl")
