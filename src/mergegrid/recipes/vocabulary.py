"""What can be asked of embeddings with differing numbers of rows."""

from typing import Literal

VocabularyPolicy = Literal["base_rows", "pad"]
"""`base_rows` merges the rows that the base has and cuts those that an expert added; `pad` brings
every model to the largest number of rows with the mean of its own (arXiv 2311.03099, its code)."""
