"""Statistics: what data-dependent methods need to know of an expert, gathered once, as files."""
