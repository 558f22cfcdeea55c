import copy

import pytest

from mergegrid.study.schema.loading import check_study

ENCODERS = {
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
    """A correct study of encoders, free to be changed."""
    return copy.deepcopy(ENCODERS)


@pytest.fixture
def read():
    """Reads a study of encoders; `others` are other keys at the root of the configuration."""

    def read(encoders, **others):
        return check_study({"encoders": encoders, **others}, "study.yaml").encoders

    return read
