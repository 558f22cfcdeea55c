"""The order of sparsifiers and methods in tables and figures: that of their registries."""

from mergegrid.methods import METHODS
from mergegrid.sparsifiers import SPARSIFIERS

SPARSIFIER_ORDER = tuple(SPARSIFIERS)
METHOD_ORDER = tuple(METHODS)
