"""Where things that can be made again are kept."""

import os
from pathlib import Path

import platformdirs


def cache_folder() -> Path:
    """`$WAVALIGN_CACHE`, or the user's cache folder."""
    named = os.environ.get("WAVALIGN_CACHE")
    return Path(named) if named else Path(platformdirs.user_cache_dir("wavalign"))
