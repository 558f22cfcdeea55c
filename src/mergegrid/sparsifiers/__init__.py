"""Sparsifiers: one small module each, and the registry that finds them by kind."""

from mergegrid.sparsifiers import breadcrumbs, magnitude
from mergegrid.sparsifiers.dare import dare
from mergegrid.sparsifiers.della import della
from mergegrid.sparsifiers.drop_only import drop_only
from mergegrid.sparsifiers.masked_finetuned import masked_finetuned
from mergegrid.sparsifiers.sparsifier import Sparsifier, unchanged

SPARSIFIERS: dict[str, Sparsifier] = {
    "none": Sparsifier(unchanged),
    "dare": Sparsifier(dare, at_random=True),
    "drop_only": Sparsifier(drop_only, at_random=True),
    "magnitude": Sparsifier(magnitude.magnitude, magnitude.cuts),
    "masked_finetuned": Sparsifier(masked_finetuned),
    "della": Sparsifier(della, rowwise=True),
    "breadcrumbs": Sparsifier(breadcrumbs.breadcrumbs, breadcrumbs.cuts),
}
