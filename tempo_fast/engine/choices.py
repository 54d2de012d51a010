"""Whether graphs and streams are used where nobody says."""

from __future__ import annotations

from tempo_fast.errors import OptionError

# Off everywhere, the plain path, until a GPU has been measured with both settings.
DEFAULTS = {"graphs": False, "streams": False}


def chosen(name: str, value: bool | None) -> bool:
    """The setting of "graphs" or "streams"; None is the default. OptionError for anything else."""
    if value is None:
        return DEFAULTS[name]
    if not isinstance(value, bool):
        raise OptionError(f"{name} must be True, False or None (the default); got {value!r}")
    return value
