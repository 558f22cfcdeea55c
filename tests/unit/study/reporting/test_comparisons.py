"""Tables of comparisons against counts made by hand."""

import json

import pandas as pd
import pytest

from mergegrid.study.reporting.catalogue import TABLES
from mergegrid.study.reporting.comparisons import comparison_summary
from mergegrid.study.reporting.results import Results
from mergegrid.study.scoring.comparisons import COLUMNS


def frame(*rows):
    same = {"family": "minilm", "task": "t", "metric": "accuracy", "engine": "", "against": "none"}
    numbers = {"runs": 1, "n": 10, "low": 0.0, "high": 0.0, "p": 0.5, "p_holm": 1.0}
    settings = json.dumps({"method": {}, "sparsifier": {}})
    built = [
        {
            **same,
            **numbers,
            **{"study": "merges", "experts": "a+b", "head": "a", "method": "ties"},
            **{"sparsifier": "dare", "rate": "0.9", "settings": settings},
            **row,
        }
        for row in rows
    ]
    types = {name: kind for name, (kind, _) in COLUMNS.items()}
    return pd.DataFrame(built, columns=list(types)).astype(types)


def test_merges_are_counted_by_method_and_sparsifier():
    actual = comparison_summary(
        frame(
            *({"difference": 0.02, "rate": rate} for rate in ("0.9", "0.5", "0.5, 0.9")),
            {"difference": 0.1, "p_holm": 0.049},
            {"difference": -0.04, "p_holm": 0.01},
            {"difference": 0.0, "p_holm": 1.0},
            {"difference": 0.5, "method": "average"},
        )
    )
    ties = actual[actual["method"] == "ties"].iloc[0]
    assert ties["comparisons"] == 6
    assert ties["difference"] == pytest.approx(0.02)
    names = ["better", "worse", "surely_better", "surely_worse"]
    assert ties[names].tolist() == [4, 1, 1, 1]
    # Four heads or more, or one or fewer, of five coins: 2 * (5 + 1) / 32.
    assert ties["p_sign"] == pytest.approx(12 / 32)
    assert ties["rate"] == "0.5, 0.9"
    assert len(actual) == 2


def test_sweeps_are_counted_by_rate_and_variant():
    settings = {
        scope: json.dumps({"method": {}, "sparsifier": {"scope": scope}})
        for scope in ("global", "per_tensor")
    }
    actual = comparison_summary(
        frame(
            *(
                {
                    "study": "sweep",
                    "difference": 0.0,
                    "sparsifier": "magnitude",
                    "method": "average",
                }
                | {"rate": rate, "settings": text}
                for rate in ("0.1", "0.9")
                for text in settings.values()
            )
        )
    )
    assert actual[["rate", "variant"]].to_numpy().tolist() == [
        ["0.1", "scope=global"],
        ["0.1", "scope=per_tensor"],
        ["0.9", "scope=global"],
        ["0.9", "scope=per_tensor"],
    ]
    assert actual["p_sign"].tolist() == [1] * 4


@pytest.mark.parametrize("name", ["comparisons", "comparison_summary"])
@pytest.mark.parametrize("rows", [[], [{"difference": 0.1}]])
def test_tables_have_the_documented_columns(tmp_path, name, rows):
    frame(*rows).to_parquet(tmp_path / "comparisons.parquet")
    results = Results.from_files({"comparisons": str(tmp_path / "comparisons.parquet")})
    table = TABLES[name].make(results)
    assert list(table.columns) == list(TABLES[name].columns)
    assert len(table) == len(rows)
