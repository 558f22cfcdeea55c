import copy

import pytest

STUDY = {
    "tasks": {
        "rte": {
            "text": ["sentence1", "sentence2"],
            "labels": [0, 1],
            "metric": "accuracy",
            "train": {"source": "hub:nyu-mll/glue:rte", "files": "train-*.parquet"},
            "test": {"source": "hub:nyu-mll/glue:rte", "files": "validation-*.parquet"},
        },
        "stsb": {
            "text": ["sentence1", "sentence2"],
            "metric": "pearson",
            "train": {"source": "hub:nyu-mll/glue:stsb", "files": "train-*.parquet"},
        },
    },
    "families": {
        "bert": {
            "base": {"source": "hub:google-bert/bert-base-uncased"},
            "experts": {"rte": {}, "stsb": {"finetune": {"learning_rate": 5e-5}}},
        }
    },
    "merges": {
        "sets": ["pairs"],
        "methods": [{"kind": "average"}, {"kind": "ties", "trim": [0.7, 0.8]}],
        "sparsifiers": [{"kind": "none"}, {"kind": "dare", "rate": 0.9}],
    },
}


@pytest.fixture
def content():
    """A correct configuration, free to be changed."""
    return copy.deepcopy(STUDY)
