"""Merge configurations of mergekit (https://github.com/arcee-ai/mergekit), read as merge files.

`document` finds lines, `reading` reads a file strictly, `parameters` resolves scopes, filters and
gradients, `methods` knows mergekit's methods and defaults, and `translation` makes a merge file.
The semantics are those of mergekit 0.1.5.
"""
