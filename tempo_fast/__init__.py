"""A fast, exact inference engine for Tempo, which answers questions about long videos.

The public names are imported when they are first used, so that the command line can parse its
arguments without loading torch.
"""

from importlib import import_module

__version__ = "0.1.0"

_HOMES = {
    "Answer": "tempo_fast.answer",
    "AnswerStream": "tempo_fast.stream",
    "CheckpointError": "tempo_fast.errors",
    "CompressedVideo": "tempo_fast.answer",
    "ModelError": "tempo_fast.errors",
    "OptionError": "tempo_fast.errors",
    "OutOfMemoryError": "tempo_fast.errors",
    "QuestionSetError": "tempo_fast.errors",
    "TempoError": "tempo_fast.errors",
    "TempoFastPipeline": "tempo_fast.pipeline",
    "Video": "tempo_fast.session",
    "VideoError": "tempo_fast.errors",
}

__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
