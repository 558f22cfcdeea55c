"""Splits of examples, and what candidates are selected by on them."""

from typing import Literal

Split = Literal["validation", "test"]
Aim = Literal["mean", "each"]
