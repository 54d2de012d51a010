"""Where a checkpoint's files are: local folders or hub ids become folders on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from tempo_fast.checkpoint.hub import snapshot
from tempo_fast.checkpoint.storage import INDEX, read_json, shard_paths
from tempo_fast.errors import CheckpointError, OptionError

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
)
TEMPO_FILES = ("config.json", "generation_config.json", *TOKENIZER_FILES)
BASE_FILES = (
    "config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    *TOKENIZER_FILES,
)
BASE_FOLDER = "base"  # of a self-contained checkpoint
ROUTER_FILE = "router.safetensors"

_TEMPO_TYPE = "tempo_qwen"
_BASE_TYPE = "qwen3_vl"


@dataclass(frozen=True)
class CheckpointFiles:
    """Local folders of a checkpoint.

    tempo: Tempo's files. base: the base's config, tokenizer, chat template and
    preprocessor_config; of a base on a hub not its weights. base_repo: (id, commit) of such a base,
    so that its rows can be read by ranges; None for a local one. weights: Tempo's safetensors
    shards. local_files_only: nothing more may be fetched.
    """

    tempo: Path
    base: Path
    base_repo: tuple[str, str] | None
    weights: list[Path]
    local_files_only: bool = False


def resolve(
    model: str | PathLike[str],
    base: str | PathLike[str] | None = None,
    *,
    revision: str | None = None,
    local_files_only: bool = False,
) -> CheckpointFiles:
    """Find a checkpoint and fetch what is needed of it.

    model: folder or hub id of Tempo; revision: of that hub id. base: folder or hub id of its
    Qwen3-VL base; by default the one inside a self-contained checkpoint, else a folder of the
    base's name beside a local `model`, else the hub id in Tempo's config. From a hub come only
    the files needed: configurations, tokenizers and templates of both, and Tempo's weights.

    Raises CheckpointError when anything is missing, unreachable or of another kind, and OptionError
    for a revision of a local folder.
    """
    local = _local_folder(model)
    if local and revision is not None:
        raise OptionError(f"revision={revision!r} is for a hub id, and {model} is a local folder")
    inside = (f"{BASE_FOLDER}/{name}" for name in (*BASE_FILES, ROUTER_FILE))
    patterns = (*TEMPO_FILES, INDEX, "model*.safetensors", *inside)
    tempo = local or snapshot(
        str(model), patterns, revision=revision, local_files_only=local_files_only
    )
    config = _read_config(tempo, _TEMPO_TYPE, "Tempo")
    weights = shard_paths(tempo)
    _check_tokenizer(tempo)

    found = _local_folder(base) if base is not None else _local_base(tempo, local, config)
    repo = None
    if found is None:
        name = str(base) if base is not None else _base_name(tempo, config)
        patterns = (*BASE_FILES, INDEX)
        try:
            found = snapshot(name, patterns, revision=None, local_files_only=local_files_only)
        except CheckpointError as error:
            raise CheckpointError(
                f"the checkpoint in {tempo} needs its Qwen3-VL base: give its folder as base "
                f"(--base), or put it beside the checkpoint. {error}"
            ) from error
        repo = (name, found.name)
    _check_base(found)
    return CheckpointFiles(tempo, found, repo, weights, local_files_only)


def _local_folder(place: str | PathLike[str]) -> Path | None:
    """The folder that `place` names; None where it can only be a hub id."""
    if not isinstance(place, str | PathLike) or not str(place):
        raise CheckpointError(f"a checkpoint is a folder or a hub id; got {place!r}")
    path = Path(place).expanduser()
    if path.is_dir():
        return path.absolute()
    if path.exists():
        raise CheckpointError(f"{place} is a file; give the checkpoint's folder or a hub id")
    looks_local = not isinstance(place, str) or path.is_absolute() or place.startswith((".", "~"))
    if looks_local or len(path.parts) > 2:
        raise CheckpointError(f"there is no folder {place}; give a checkpoint's folder or a hub id")
    return None


def _base_name(tempo: Path, config: dict) -> str:
    names = config.get("mm_vision_tower_aux_list")
    if not isinstance(names, list) or not names or not isinstance(names[0], str) or not names[0]:
        raise CheckpointError(
            f"{tempo / 'config.json'} names no base (mm_vision_tower_aux_list): give base="
        )
    return names[0]


def _local_base(tempo: Path, local: Path | None, config: dict) -> Path | None:
    inside = tempo / BASE_FOLDER
    if (inside / "config.json").is_file():
        return inside
    name = Path(_base_name(tempo, config))
    if local is not None:
        # An absolute name is a path on the machine that made the checkpoint.
        for beside in (local.parent / name.name, local.parent / name):
            if beside.is_dir():
                return beside
    return _local_folder(str(name)) if name.is_absolute() else None


def _read_config(folder: Path, kind: str, title: str) -> dict:
    config = read_json(folder / "config.json")
    if config.get("model_type") != kind:
        raise CheckpointError(
            f"{folder} is no {title} checkpoint: model_type is {config.get('model_type')!r} and "
            f"should be {kind!r}; check which folder or id was given as model and as base"
        )
    return config


def _check_tokenizer(folder: Path) -> None:
    has = {name for name in TOKENIZER_FILES if (folder / name).is_file()}
    if "tokenizer.json" not in has and not {"vocab.json", "merges.txt"} <= has:
        raise CheckpointError(
            f"{folder} has no tokenizer (tokenizer.json, or vocab.json and merges.txt); download "
            "it again"
        )


def _check_base(folder: Path) -> None:
    _read_config(folder, _BASE_TYPE, "Qwen3-VL base")
    _check_tokenizer(folder)
    templates = ("chat_template.jinja", "chat_template.json")
    if not any((folder / name).is_file() for name in templates):
        settings = folder / "tokenizer_config.json"
        if not settings.is_file() or "chat_template" not in read_json(settings):
            raise CheckpointError(f"{folder} has no chat template; download it again")
    if not (folder / "preprocessor_config.json").is_file():
        raise CheckpointError(f"{folder} has no preprocessor_config.json; download it again")
