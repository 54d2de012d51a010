"""The package's own exceptions: every one says what was wrong and what to do about it."""


class TempoError(Exception):
    """Base of every error that tempo_fast raises on purpose."""


class CheckpointError(TempoError):
    """A checkpoint that is missing, incomplete, or not of Tempo's layout."""


class VideoError(TempoError):
    """A video, image or array of frames that can't be read as one."""


class DamageWarning(UserWarning):
    """Part of a video can't be decoded, and other frames take the place of those in it."""


class ShiftWarning(UserWarning):
    """The pictures that stand for the sampled moments are from far off."""


class OptionError(TempoError, ValueError):
    """An option that is unknown, out of range, or can't be met together with another."""


class QuestionSetError(TempoError):
    """A file of questions with known answers that can't be read as one."""


class ModelError(TempoError):
    """The model computed something that is no number (its weights or kernels are broken)."""


class OutOfMemoryError(TempoError):
    """The device's memory is too small, even for the smallest pieces of the work."""
