"""Sizes of deltas for which the paper found DARE to work and to fail (section 4.6)."""

SMALL = 0.002
"""Most deltas of experts on which DARE works are smaller."""
LARGE = 0.01
"""Deltas often exceed it where DARE fails."""
SHARE_SMALL = f"share_below_{SMALL}"
"""Column with the share of deltas below `SMALL`."""
