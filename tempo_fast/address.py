"""Telling addresses from paths, without loading what reads them."""

from __future__ import annotations

import re


def is_url(video: str) -> bool:
    """Whether a string is an address, `scheme://…`, rather than a path."""
    return re.match(r"[a-zA-Z][a-zA-Z0-9+.-]+://", video) is not None
