"""Programs written by models: taken out of answers, run in a sandbox, judged and counted."""
