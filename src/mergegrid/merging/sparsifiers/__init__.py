"""Sparsifiers: one small module each, and the registry that finds them by kind."""

from collections.abc import Callable
from typing import Any

from mergegrid.merging.deltas import ExpertDeltas, Sparsified
from mergegrid.merging.sparsifiers.dare import dare
from mergegrid.merging.sparsifiers.drop_only import drop_only
from mergegrid.merging.sparsifiers.magnitude import magnitude
from mergegrid.merging.sparsifiers.masked_finetuned import masked_finetuned
from mergegrid.merging.sparsifiers.unchanged import unchanged

#: A sparsifier takes its spec, the expert beside its base and a tensor name.
SPARSIFIERS: dict[str, Callable[[Any, ExpertDeltas, str], Sparsified]] = {
    "none": unchanged,
    "dare": dare,
    "drop_only": drop_only,
    "magnitude": magnitude,
    "masked_finetuned": masked_finetuned,
}
