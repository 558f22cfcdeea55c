"""Readable names of the rules whose time and memory are measured."""

#: Rules in the order in which data flows, with a readable name.
STAGES = {
    "fetch": "fetch models and data",
    "prepare": "prepare examples",
    "import_base": "import bases",
    "expert": "fine-tune experts",
    "deltas": "measure deltas",
    "similarity": "compare embeddings",
    "statistics": "gather statistics",
    "sweep": "sweep drop rates",
    "merges": "merge and score",
    "oracle": "learn tasks together",
    "oracle_scores": "score multi-task models",
    "import_decoder": "import decoders",
    "instructions": "prepare instructions",
    "questions": "prepare questions",
    "decoder": "fine-tune decoders",
    "calibration": "prepare texts for statistics",
    "decoder_statistics": "gather decoders' statistics",
    "merge": "merge decoders",
    "generate": "generate answers",
    "score": "score answers",
    "decoder_similarity": "compare decoders' embeddings",
    "harness": "run lm-evaluation-harness",
    "export": "export models",
}
