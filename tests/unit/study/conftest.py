"""Base and expert are those of encoders here, not the arrays of `tests/unit/conftest.py`."""

from small_encoders import base, expert

__all__ = ["base", "expert"]
