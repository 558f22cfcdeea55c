"""Where a user's cache is: what is fetched or compiled once, and can be made again."""

import os
from pathlib import Path


def user_cache() -> Path:
    """`$MERGEGRID_CACHE`, or `mergegrid` in the user's cache folder; it may not exist."""
    ours, users = os.environ.get("MERGEGRID_CACHE"), os.environ.get("XDG_CACHE_HOME")
    # Path's own would raise where a user has no home.
    home = os.path.expanduser("~/.cache")  # noqa: PTH111
    return Path(ours) if ours else Path(users or home) / "mergegrid"
