"""Reports on deltas: their sizes, histograms and what rounding loses."""
