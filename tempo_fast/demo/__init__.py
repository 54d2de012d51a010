"""The demo: films of shapes, questions about them, and a small Tempo that was trained on such."""

from pathlib import Path

# The shipped checkpoint; the README in it says what it is and what it can't do.
MODEL = Path(__file__).parent / "model"
