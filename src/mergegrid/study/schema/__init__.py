"""The configuration of a study: what is fine-tuned, sparsified, merged, scored and shown."""
