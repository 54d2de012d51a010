"""Marks for tests of what may not be installed."""

from importlib.util import find_spec

import pytest

needs_av = pytest.mark.skipif(find_spec("av") is None, reason="needs PyAV, to read a video file")
