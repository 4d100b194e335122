"""Folders that builds and tests share: the checkout and the user's cache."""

import os
from pathlib import Path

PROJECT = Path(__file__).parents[2]
USER_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
CACHE = Path(os.environ.get("CNCLIP_CACHE") or USER_CACHE / "cnclip")
"""Downloads and builds that outlive a checkout."""

PYTHON = PROJECT / "packaging/python"
"""Runs Python with the pinned packages of a folder."""


def cargo_target():
    """Cargo's output folder, which is also exported to the cargo commands that are started from here."""
    return PROJECT / os.environ.setdefault("CARGO_TARGET_DIR", str(CACHE / "target"))
