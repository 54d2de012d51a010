"""What is used where nobody says: graphs, streams, relevance and allocation in one launch."""

from __future__ import annotations

import os

from tempo_fast.errors import OptionError

# Off everywhere, the plain path, until a GPU has been measured with both settings.
DEFAULTS = {"graphs": False, "streams": False, "fused allocation": False}
ALLOCATION_VARIABLE = "TEMPO_FAST_ALLOCATION"


def chosen(name: str, value: bool | None) -> bool:
    """The setting of "graphs" or "streams"; None is the default. OptionError for anything else."""
    if value is None:
        return DEFAULTS[name]
    if not isinstance(value, bool):
        raise OptionError(f"{name} must be True, False or None (the default); got {value!r}")
    return value


def fused_allocation() -> bool:
    """Whether relevance and allocation are one launch, where both are kernels.

    TEMPO_FAST_ALLOCATION says so: fused, separate, or auto for the default. Raises OptionError for
    anything else.
    """
    ways = {"auto": DEFAULTS["fused allocation"], "fused": True, "separate": False}
    named = os.environ.get(ALLOCATION_VARIABLE, "auto")
    if named not in ways:
        raise OptionError(f"{ALLOCATION_VARIABLE} must be {', '.join(ways)}; got {named!r}")
    return ways[named]
