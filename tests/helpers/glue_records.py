"""GLUE from local files, for tests with real tasks.

Needs the environment variable GLUE_DATA: a folder with `TASK/train.jsonl` and
`TASK/validation.jsonl` in the columns of GLUE.
"""

import os
from pathlib import Path

import pytest

FOLDER = Path(os.environ.get("GLUE_DATA", "no GLUE_DATA")).resolve()
needs_glue = pytest.mark.skipif(
    not FOLDER.is_dir(), reason="GLUE_DATA does not name a folder of GLUE records"
)


def local(name: str, task: dict, **sizes: int) -> dict:
    """A task of a study with its tables in that folder, and fewer examples."""
    tables = {
        split: {"source": f"path:{FOLDER / name / file}.jsonl"}
        for split, file in (("train", "train"), ("test", "validation"))
    }
    return task | tables | {"sizes": sizes}
