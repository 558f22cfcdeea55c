"""The results of a study as a data set of the Hugging Face hub, one configuration per table.

    README.md                  metadata: which file belongs to which configuration
    scores/test.parquet        every score, with the types of `results/scores.parquet`
    merges/test.parquet        a table of the report

`datasets.load_dataset("org/name", "scores")` reads it. The files are written with pandas: the
library `datasets` would write the same Parquet, with one commit per table.
"""

import shutil
from pathlib import Path

import pandas as pd
from huggingface_hub.repocard_data import DatasetCardData

import mergegrid
from mergegrid.checkpoints.front_matter import CARD
from mergegrid.checkpoints.upload import Upload, check_local_paths, check_repo
from mergegrid.errors import ConfigError
from mergegrid.study.reporting.catalogue import TABLES
from mergegrid.study.schema.study import Study


def upload_of_results(study: Study, repo: str, place: Path) -> Upload:
    """Write the scores and tables of a study into the folder `place`, and list what to upload.

    Raises:
        ConfigError: `repo` is not the name of a repository, or the study has no results yet.
        CheckpointError: a table mentions a path of this machine.
    """
    check_repo(repo)
    results = Path(study.paths.results)
    scores = results / "scores.parquet"
    if not scores.is_file():
        raise ConfigError(f"there is no {scores}; run the study first, in this working directory")
    captions = {"scores": "Every score of the study."}
    _file_of(place, "scores").parent.mkdir(parents=True)
    shutil.copyfile(scores, _file_of(place, "scores"))
    for name, table in TABLES.items():
        csv = results / "tables" / f"{name}.csv"
        if not csv.is_file():
            continue
        check_local_paths(csv, "name the source by hub: or pypi:, or by a relative path")
        # An empty field is a missing value; a text such as NA is a text.
        frame = pd.read_csv(csv, keep_default_na=False, na_values=[""])
        if frame.empty:
            continue
        _file_of(place, name).parent.mkdir(parents=True)
        frame.to_parquet(_file_of(place, name), index=False)
        captions[name] = table.caption
    (place / CARD).write_text(_card(study.title, repo, captions), encoding="utf-8")
    files = sorted(path for path in place.rglob("*") if path.is_file())
    sizes = {path.relative_to(place).as_posix(): path.stat().st_size for path in files}
    return Upload(repo, "dataset", place, sizes)


def _file_of(place: Path, name: str) -> Path:
    return place / name / "test.parquet"


def _card(title: str, repo: str, captions: dict[str, str]) -> str:
    data = DatasetCardData(
        pretty_name=title,
        tags=["mergegrid", "model-merging"],
        configs=[
            {
                "config_name": name,
                "data_files": [{"split": "test", "path": f"{name}/test.parquet"}],
                **({"default": True} if name == "scores" else {}),
            }
            for name in captions
        ],
    )
    tables = "".join(f"- `{name}`: {caption}\n" for name, caption in captions.items())
    return (
        f"---\n{data.to_yaml()}\n---\n\n# {title}\n\nResults of a study with mergegrid "
        f"{mergegrid.__version__}.\n\n{tables}\n```python\nfrom datasets import load_dataset\n\n"
        f'scores = load_dataset("{repo}", "scores", split="test")\n```\n'
    )
