"""Programs written by models: extracted from answers, run in a sandbox, and scored."""
