from __future__ import annotations

import os
from pathlib import Path
from typing import NoReturn

import pytest

from openrouter_async import codec

ROOT = Path(__file__).resolve().parent.parent
"""The folder of the project."""

STRESS = bool(os.environ.get("STRESS"))
"""Whether large tallies run in full."""


def missing(what: str) -> NoReturn:
    """Skip for want of something outside the project, or fail where everything has to be there."""
    if os.environ.get("REQUIRE_ALL"):
        pytest.fail(f"{what} is missing, and REQUIRE_ALL is set")
    pytest.skip(f"{what} is missing")


def codec_named(name: str) -> codec.Codec:
    """The codec of this name."""
    if name == codec.STANDARD.name:
        return codec.STANDARD
    found = codec.find()
    if found.name != name:
        missing(name)
    return found
