"""The options of the front door: their names, defaults and ranges, in one place.

The names and defaults are those of the published inference script and evaluation. Those of
`OpenOptions` decide what is encoded (once per video), those of `AskOptions` what one question gets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from numbers import Integral, Real

from tempo_fast.errors import OptionError

STRATEGIES = ("head", "tail", "random", "tome", "uniform", "shuffled", "none")
PRUNINGS = ("topk", "lastk", "random")
ERRORS = ("raise", "skip")
DECODERS = ("auto", "pyav", "torchcodec", "nvdec")
FRAMES = ("exact", "keyframes")


# Beyond these no option means anything; they keep the arithmetic away from overflow.
MOST_SECONDS = 1e9
MOST_RATE = 1e6
MOST_TOKENS = 2**31 - 1
# Far less than the likeliest token has; less yet is 0 in float32.
LEAST_TOP_P = 1e-30


def _number(name: str, value: object, least: float, most: float) -> None:
    if isinstance(value, bool) or not isinstance(value, Real) or not least <= value <= most:
        raise OptionError(f"{name} must be a number from {least:g} to {most:g}; got {value!r}")


def _whole(name: str, value: object, least: int, most: int = MOST_TOKENS) -> None:
    if isinstance(value, bool) or not isinstance(value, Integral) or not least <= value <= most:
        raise OptionError(f"{name} must be a whole number from {least} to {most}; got {value!r}")


def _switch(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise OptionError(f"{name} must be True or False; got {value!r}")


def _one_of(name: str, value: object, choices: Sequence[str]) -> None:
    if value not in choices:
        raise OptionError(f"{name} must be one of {', '.join(choices)}; got {value!r}")


@dataclass(frozen=True, kw_only=True)
class OpenOptions:
    """What is read of a video and how it is cut into segments.

    video_fps: wanted sampling rate, frames a second.
    max_frames, min_frames: limits on the number of sampled frames; max_frames is the stronger.
    frame_windows: frames in a segment (W). frame_stride: frames from the start of one segment to
        the start of the next; by default the same as frame_windows, so that segments tile the
        video.
    clip: (start, end) in seconds, to read only that part; times are then counted from its start.
    fps: the rate of frames that have none of their own. Of an array, whose frames are already
        sampled and all used, it must be given; a `.npy` file and a folder of images are sampled
        like a video of this rate, by default video_fps.
    frames: of video files. "exact" shows the frames that the published rule names. "keyframes"
        shows for each of them the keyframe nearest to it, which may come often or lie outside the
        clip: much less is decoded, but a picture is off its time, by as much as the keyframes are
        far. Where that is more than the length of a segment, a `ShiftWarning` says so.
    decoder: of video files. "pyav" is always there and reads all of them. "auto" is the same,
        whatever else is installed: on two cores torchcodec took about twice as long in each of the
        five files that were measured (benchmarks/results/video-*.json), and nvdec isn't measured.
        "torchcodec" and "nvdec" (on the GPU) need torchcodec, know no on_error="skip" and refuse a
        file of which they give frames of other times; their colours may differ (10-bit, interlaced,
        4:2:0 of odd height, all of nvdec's).
    on_error: "raise" fails where a sampled frame of a video file is damaged. "skip" shows the
        sample before it in its place (the one after it, at the start) and warns with
        `DamageWarning`. Damaged is what the decoder can't decode or says that it had to patch up,
        and all up to the next keyframe that was decoded after it. Not every decoder notices,
        and "raise" may miss what H.264's patches up where a file has fewer stretches to decode
        than there are cores, so that several work on one.
    allow_remote: fetch http:// and https:// addresses. allow_private: also from addresses that are
        not of the public internet. remote_max_bytes, remote_seconds: limits of the file's size and
        of the time that fetching it takes.
    """

    video_fps: float = 2.0
    max_frames: int = 1024
    min_frames: int = 4
    frame_windows: int = 8
    frame_stride: int | None = None
    clip: tuple[float, float] | None = None
    fps: float | None = None
    frames: str = "exact"
    decoder: str = "auto"
    on_error: str = "raise"
    allow_remote: bool = False
    allow_private: bool = False
    remote_max_bytes: int = 4 * 1024**3
    remote_seconds: float = 600.0

    def __post_init__(self) -> None:
        _one_of("on_error", self.on_error, ERRORS)
        _one_of("frames", self.frames, FRAMES)
        _one_of("decoder", self.decoder, DECODERS)
        if self.on_error == "skip" and self.decoder not in ("auto", "pyav"):
            raise OptionError(f"on_error='skip' needs decoder='pyav'; got {self.decoder!r}")
        _number("video_fps", self.video_fps, 1e-6, MOST_RATE)
        _whole("max_frames", self.max_frames, 1)
        _whole("min_frames", self.min_frames, 1)
        _whole("frame_windows", self.frame_windows, 1)
        if self.frame_stride is not None:
            _whole("frame_stride", self.frame_stride, 1)
        if self.fps is not None:
            _number("fps", self.fps, 1e-6, MOST_RATE)
        if self.clip is not None:
            if not isinstance(self.clip, Sequence) or len(self.clip) != 2:
                raise OptionError(f"clip must be (start, end) in seconds; got {self.clip!r}")
            start, end = self.clip
            _number("the start of clip", start, 0, MOST_SECONDS)
            _number("the end of clip", end, 0, MOST_SECONDS)
            if not start < end:
                raise OptionError(f"clip must end after it starts; got {self.clip!r}")
        _switch("allow_remote", self.allow_remote)
        _switch("allow_private", self.allow_private)
        _whole("remote_max_bytes", self.remote_max_bytes, 1, 2**63 - 1)
        _number("remote_seconds", self.remote_seconds, 1e-3, MOST_SECONDS)

    @property
    def stride(self) -> int:
        """Frames from the start of one segment to the start of the next."""
        return self.frame_windows if self.frame_stride is None else self.frame_stride


@dataclass(frozen=True, kw_only=True)
class AskOptions:
    """How one question is compressed and answered.

    visual_token_budget: memory tokens that all segments share (B). min_tokens: the least a segment
        gets (m). dynamic_compress: False keeps every memory token of every segment.
    strategy: which memory tokens are kept; see `tempo_fast.compression.strategies`.
    pruning: instead of a budget, all tokens of a share of the segments (1 - prune_ratio: the most
        relevant, the least, or any) and prune_tokens of each other one.
    lazy: score first and make only the memory tokens that are kept (where the strategy allows it);
        False makes all of them in one pass. The answer is the same.
    tokenizer_model_max_length: context of the language model; the visual part is cut to fit it.
    temperature: 0 is greedy; above it, sampling from the top_p nucleus with `seed`.
    stop: strings that end the answer (not part of it). max_new_tokens: its length limit.
    """

    visual_token_budget: int = 8192
    min_tokens: int = 4
    strategy: str = "head"
    pruning: str | None = None
    prune_ratio: float = 0.5
    prune_tokens: int = 0
    dynamic_compress: bool = True
    lazy: bool = True
    tokenizer_model_max_length: int = 16384
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    max_new_tokens: int = 1024

    def __post_init__(self) -> None:
        _whole("visual_token_budget", self.visual_token_budget, 1)
        _whole("min_tokens", self.min_tokens, 1)
        _one_of("strategy", self.strategy, STRATEGIES)
        if self.pruning is not None:
            _one_of("pruning", self.pruning, PRUNINGS)
            if self.strategy in ("uniform", "shuffled", "none"):
                raise OptionError(
                    f"pruning={self.pruning!r} decides how many tokens a segment keeps and so does "
                    f"strategy={self.strategy!r}: give one of them"
                )
        _number("prune_ratio", self.prune_ratio, 0.0, 1.0)
        _whole("prune_tokens", self.prune_tokens, 0)
        if self.pruning is not None and self.prune_ratio == 1 and self.prune_tokens == 0:
            raise OptionError(
                "prune_ratio=1 with prune_tokens=0 keeps nothing of the video: lower prune_ratio "
                "or raise prune_tokens"
            )
        _whole("tokenizer_model_max_length", self.tokenizer_model_max_length, 1)
        _number("temperature", self.temperature, 0.0, 1e6)
        _number("top_p", self.top_p, LEAST_TOP_P, 1.0)
        if self.seed is not None:
            _whole("seed", self.seed, 0, 2**64 - 1)
            object.__setattr__(self, "seed", int(self.seed))
        _whole("max_new_tokens", self.max_new_tokens, 1)
        stop = (self.stop,) if isinstance(self.stop, str) else self.stop
        if not isinstance(stop, Sequence) or not all(isinstance(s, str) and s for s in stop):
            raise OptionError(f"stop must be non-empty strings; got {self.stop!r}")
        object.__setattr__(self, "stop", tuple(stop))
        for name in ("dynamic_compress", "lazy"):
            _switch(name, getattr(self, name))


def _names(kind: type) -> set[str]:
    return {field.name for field in fields(kind)}


def split_options(options: Mapping[str, object]) -> tuple[OpenOptions, AskOptions]:
    """Sort the keyword options of `pipe(...)` into those of `open` and those of `ask`.

    Raises OptionError for a name that neither knows.
    """
    unknown = sorted(set(options) - _names(OpenOptions) - _names(AskOptions))
    if unknown:
        known = ", ".join(sorted(_names(OpenOptions) | _names(AskOptions)))
        raise OptionError(f"unknown option {', '.join(unknown)}; the options are: {known}")
    return tuple(
        kind(**{name: value for name, value in options.items() if name in _names(kind)})
        for kind in (OpenOptions, AskOptions)
    )


def make_options(kind: type, options: Mapping[str, object]):
    """`kind(**options)` with an OptionError for an unknown name."""
    unknown = sorted(set(options) - _names(kind))
    if unknown:
        raise OptionError(
            f"unknown option {', '.join(unknown)}; the options here are: "
            + ", ".join(sorted(_names(kind)))
        )
    return kind(**options)
