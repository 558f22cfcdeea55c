"""Tables against values computed by hand, and frames that other tests draw."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mergegrid.study.reporting import tables
from mergegrid.study.reporting.catalogue import TABLES
from mergegrid.study.reporting.results import Results
from mergegrid.study.scoring.scores import COLUMNS, score_frame


def row(**values: Any) -> dict[str, Any]:
    """Return a row of scores, by default of a sweep of `trec` on test."""
    settings = {"sparsifier": values.pop("settings", {}), "method": {}}
    built = {
        "study": "sweep",
        "family": "minilm",
        "experts": "trec",
        "training_seed": 0,
        "sparsifier": "none",
        "rate": 0.0,
        "mask_seed": None,
        "method": "average",
        "task": "trec",
        "split": "test",
        "metric": "accuracy",
        "stderr": 0.01,
        "n": 500,
        "selected": True,
        "selection": "validation",
        "primary": True,
        "engine": "",
        "recipe": "slug",
        "settings": json.dumps(settings, sort_keys=True),
        **values,
    }
    not_of_the_recipe = (
        *("head", "task", "split", "metric", "value", "stderr", "selected"),
        *("primary", "engine", "n"),
    )
    point = {key: value for key, value in built.items() if key not in not_of_the_recipe}
    return {"recipe_digest": json.dumps(point), "head": built["experts"], **built}


def merge(**values: Any) -> dict[str, Any]:
    head = {"trec": "trec", "sms": "spam"}.get(values["task"]) if "task" in values else None
    return row(**{"study": "merges", "experts": "trec+spam", "head": head, **values})


def frame(rows: Iterable[dict[str, Any]]) -> pd.DataFrame:
    scores = score_frame(list(rows))
    assert list(scores.columns) == list(COLUMNS)
    return scores


def only(table: pd.DataFrame, **values: Any) -> pd.Series:
    """Return the only row with these values."""
    for name, value in values.items():
        table = table[table[name] == value]
    assert len(table) == 1, table
    return table.iloc[0]


SWEEP = [
    row(value=0.90, stderr=0.01),
    row(value=0.94, stderr=0.03, training_seed=1),
    row(value=0.30, sparsifier="drop_only", rate=1.0, mask_seed=0),
    row(value=0.20, sparsifier="drop_only", rate=1.0, mask_seed=0, training_seed=1),
    row(value=0.80, sparsifier="dare", rate=0.9, mask_seed=0),
    row(value=0.84, sparsifier="dare", rate=0.9, mask_seed=1),
    row(value=0.88, sparsifier="dare", rate=0.9, mask_seed=0, training_seed=1),
    row(value=0.96, sparsifier="dare", rate=0.9, mask_seed=1, training_seed=1),
    row(value=0.50, sparsifier="magnitude", rate=0.5, settings={"scope": "global", "x": 1}),
    row(value=0.60, sparsifier="magnitude", rate=0.5, settings={"scope": "per_tensor", "x": 1}),
    row(value=0.99, experts="spam", task="sms", metric="matthews"),
    row(value=0.00, experts="spam", task="sms", metric="matthews", sparsifier="drop_only", rate=1),
]
MERGES = [
    # TIES was searched: two candidates, the second is better; DARE then keeps 0.9 for it.
    merge(method="ties", task="trec", split="validation", value=0.5, selected=False,
          settings={"coefficient": 0.5}),
    merge(method="ties", task="sms", split="validation", value=0.7, selected=False,
          settings={"coefficient": 0.5}),
    merge(method="ties", task="trec", split="validation", value=0.6, settings={"coefficient": 1.0}),
    merge(method="ties", task="sms", split="validation", value=0.8, settings={"coefficient": 1.0}),
    *(
        merge(method="ties", task=task, split="validation", sparsifier="dare", rate=0.9,
              mask_seed=seed, settings={"coefficient": 1.0}, value=value)
        for seed, values in enumerate([(0.7, 0.8), (0.5, 1.0)])
        for task, value in zip(("trec", "sms"), values, strict=True)
    ),
    *(
        merge(method="ties", task=task, sparsifier="dare", rate=0.9, mask_seed=seed,
              settings={"coefficient": 1.0}, value=value)
        for seed, values in enumerate([(0.6, 0.9), (0.8, 0.8)])
        for task, value in zip(("trec", "sms"), values, strict=True)
    ),
    merge(method="ties", task="trec", value=0.60, settings={"coefficient": 1.0}),
    merge(method="ties", task="sms", metric="matthews", value=0.88, settings={"coefficient": 1.0}),
]  # fmt: skip


def test_a_point_has_mean_spread_and_change_over_training_and_mask_seeds() -> None:
    point = only(tables.drop_rates(frame(SWEEP)), sparsifier="dare")
    values = [0.80, 0.84, 0.88, 0.96]
    assert point["mean"] == pytest.approx(0.87)
    assert point["std"] == pytest.approx(np.std(values, ddof=1))
    assert (point["min"], point["max"], point["runs"]) == (0.80, 0.96, 4)
    # By training seed: (-0.10, -0.06) and (-0.06, +0.02).
    assert point["change"] == pytest.approx(-0.05)
    assert point["stderr"] == pytest.approx(0.01)


def test_change_compares_runs_of_the_same_training_seed_only() -> None:
    lone = row(value=0.90, sparsifier="dare", rate=0.5, mask_seed=0, training_seed=1)
    point = only(tables.drop_rates(frame([*SWEEP, lone])), sparsifier="dare", rate=0.5)
    assert point["change"] == pytest.approx(0.90 - 0.94)
    assert np.isnan(point["std"])


def test_expert_and_base_have_one_row() -> None:
    table = tables.drop_rates(frame(SWEEP))
    whole = only(table, expert="trec", sparsifier="none")
    base = only(table, expert="trec", sparsifier="base")
    assert (whole["mean"], whole["change"], whole["rate"]) == (pytest.approx(0.92), 0, 0)
    assert whole["stderr"] == pytest.approx(0.02)
    assert (base["mean"], base["rate"]) == (pytest.approx(0.25), 1)
    assert not ((table["sparsifier"] == "drop_only") & (table["rate"] == 1)).any()


def test_rows_are_sorted_by_expert_then_registry_then_rate() -> None:
    table = tables.drop_rates(frame(SWEEP[::-1]))
    assert list(table["expert"].unique()) == ["spam", "trec"]
    kinds = list(table.loc[table["expert"] == "trec", "sparsifier"])
    assert kinds == ["none", "base", "dare", "magnitude", "magnitude"]


def test_variants_are_labeled_by_differing_settings_only() -> None:
    table = tables.drop_rates(frame(SWEEP))
    magnitude = table[table["sparsifier"] == "magnitude"]
    assert set(magnitude["variant"]) == {"scope=global", "scope=per_tensor"}
    assert set(table.loc[table["sparsifier"] != "magnitude", "variant"]) == {""}


def test_masked_finetuned_at_rate_one_is_not_the_base() -> None:
    rows = [*SWEEP, row(value=0.1, sparsifier="masked_finetuned", rate=1.0, mask_seed=0)]
    table = tables.drop_rates(frame(rows))
    assert only(table, sparsifier="masked_finetuned")["mean"] == pytest.approx(0.1)
    assert only(table, sparsifier="base", expert="trec")["mean"] == pytest.approx(0.25)


def test_the_wide_table_reads_from_the_expert_at_zero_to_the_base_at_one() -> None:
    wide = tables.drop_rates_wide(frame(SWEEP))
    assert list(wide.columns) == [
        "family", "task", "expert", "metric", "sparsifier", "0", "0.5", "0.9", "1",
    ]  # fmt: skip
    assert wide.iloc[:, 1:].to_numpy().tolist() == [
        ["trec", "trec", "accuracy", "base", "", "", "", "0.250 ± 0.071"],
        ["trec", "trec", "accuracy", "dare", "0.920 ± 0.028", "", "0.870 ± 0.068", ""],
        ["trec", "trec", "accuracy", "magnitude (scope=global)", "0.920 ± 0.028", "0.500", "", ""],
        ["trec", "trec", "accuracy", "magnitude (scope=per_tensor)", "0.920 ± 0.028", "0.600", "",
         ""],
        ["sms", "spam", "matthews", "base", "", "", "", "0.000"],
    ]  # fmt: skip


def test_selected_merges_have_test_scores_and_references_of_their_seed() -> None:
    table = tables.merges(frame([*SWEEP, *MERGES]))
    assert len(table) == 4
    dare = only(table, sparsifier="dare", task="trec")
    assert (dare["mean"], dare["min"], dare["max"], dare["runs"]) == (0.7, 0.6, 0.8, 2)
    # Training seed 0 only: the mean over both seeds would be 0.92 and 0.25.
    assert (dare["expert"], dare["base"]) == (0.90, 0.30)
    assert dare["retained"] == pytest.approx((0.7 - 0.3) / (0.9 - 0.3))
    assert only(table, sparsifier="none", task="sms")["retained"] == pytest.approx(0.88 / 0.99)
    assert list(table["sparsifier"].unique()) == ["none", "dare"]


@pytest.mark.parametrize("base", [0.49, 0.50, 0.70])
def test_nothing_is_retained_if_the_expert_gained_nothing(base: float) -> None:
    close = [
        row(value=0.50), row(value=base, sparsifier="drop_only", rate=1.0, mask_seed=0),
        merge(task="trec", value=0.6),
    ]  # fmt: skip
    assert np.isnan(only(tables.merges(frame(close)), task="trec")["retained"])


def test_merges_without_a_sweep_have_no_reference() -> None:
    table = tables.merges(frame(MERGES))
    assert table[["expert", "base", "retained"]].isna().all(axis=None)
    assert set(tables.merges_wide(frame(MERGES))["method"]) == {"ties"}


def test_wide_merges_have_a_column_per_task_and_the_mean_over_tasks() -> None:
    wide = tables.merges_wide(frame([*SWEEP, *MERGES]))
    assert list(wide.columns[-3:]) == ["trec", "sms", "mean"]
    keys = ["method", "sparsifier", "trec", "sms", "mean"]
    assert wide[keys].to_numpy().tolist() == [
        ["single experts", "", "0.900", "0.990", "0.945"],
        ["base", "", "0.300", "0.000", "0.150"],
        ["ties", "none", "0.600", "0.880", "0.740"],
        # Runs: (0.6 + 0.9) / 2 = 0.75 and (0.8 + 0.8) / 2 = 0.80.
        ["ties", "dare at 0.9", "0.700 ± 0.141", "0.850 ± 0.071", "0.775 ± 0.035"],
    ]


def test_the_mean_is_the_last_column_for_sets_with_different_tasks() -> None:
    other = merge(experts="spam+rte", task="rte", value=0.5)
    wide = tables.merges_wide(frame([*SWEEP, *MERGES, other]))
    assert list(wide.columns[-4:]) == ["trec", "sms", "rte", "mean"]
    assert only(wide, experts="spam+rte", method="average")["trec"] == ""


def test_training_seeds_with_different_rates_share_a_row_of_the_wide_table() -> None:
    other = merge(method="ties", task="trec", value=0.7, sparsifier="dare", rate=0.5, mask_seed=0,
                  training_seed=1)  # fmt: skip
    wide = tables.merges_wide(frame([*SWEEP, *MERGES, other]))
    assert "dare at 0.5, 0.9" in set(wide["sparsifier"])


def test_candidates_are_means_over_tasks_and_mask_seeds_on_the_selection_split() -> None:
    table = tables.merge_candidates(frame([*SWEEP, *MERGES]))
    actual = table[["sparsifier", "rate", "mean", "runs", "selected"]].to_numpy().tolist()
    assert actual == [
        ["none", 0.0, pytest.approx(0.6), 1, False],
        ["none", 0.0, pytest.approx(0.7), 1, True],
        ["dare", 0.9, pytest.approx(0.75), 2, True],
    ]
    assert set(table["selection"]) == {"validation"}


def test_candidates_compared_on_test_are_not_selected_merges() -> None:
    rows = [
        merge(method="ties", settings={"coefficient": c}, task=task, value=c, selection="test",
              selected=c == 1.0)
        for c in (0.5, 1.0) for task in ("trec", "sms")
    ]  # fmt: skip
    assert list(tables.merge_candidates(frame(rows))["selected"]) == [False, True]
    assert set(tables.merges(frame(rows))["mean"]) == {1.0}
    assert set(tables.merges_wide(frame(rows))["selection"]) == {"test"}


def test_the_reference_of_a_task_shared_by_two_experts_is_their_mean() -> None:
    rows = [
        row(value=0.8, experts="a"), row(value=0.6, experts="b"),
        merge(value=0.5, experts="a+b", head="a"), merge(value=0.3, experts="a+b", head="b"),
    ]  # fmt: skip
    merged = only(tables.merges(frame(rows)), task="trec")
    assert merged["expert"] == pytest.approx(0.7)
    assert (merged["mean"], merged["runs"]) == (pytest.approx(0.4), 1)


@pytest.mark.parametrize(
    ("make", "first", "last"),
    [
        (tables.drop_rates, "family", "change"),
        (tables.drop_rates_wide, "family", "sparsifier"),
        (tables.merges, "family", "selection"),
        (tables.merge_summary, "family", "runs"),
        (tables.merges_wide, "family", "mean"),
        (tables.merge_candidates, "family", "selection"),
        (tables.benchmarks, "family", "n"),
    ],
)
def test_a_study_without_results_has_empty_tables_with_their_columns(
    make: Any, first: str, last: str
) -> None:
    table = make(frame([]))
    assert table.empty
    assert (table.columns[0], table.columns[-1]) == (first, last)
    full = make(frame([*SWEEP, *MERGES]))
    assert set(table.columns) <= set(full.columns)


def test_sweep_or_merges_alone_are_enough() -> None:
    assert tables.merges(frame(SWEEP)).empty
    assert tables.merges_wide(frame(SWEEP)).empty
    assert tables.drop_rates(frame(MERGES)).empty


def test_delta_ranges_keep_whole_models_only() -> None:
    sizes = {"mean": 1e-3, "rms": 2e-3, "max": 0.1, "share_below_0.002": 0.9, "q999": 0.05}
    sizes |= {f"q{percent:02d}": percent * 1e-4 for percent in range(1, 100)}
    sizes |= {"share_zero": 0.2, "lost_in_bfloat16": 0.6, "lost_in_float16": 0.4}
    deltas = pd.DataFrame(
        [
            {"family": "minilm", "expert": "trec", "training_seed": 0, "tensor": name, "n": n}
            | sizes
            for name, n in (("all", 10), ("layer.0", 4), ("layer.1", 6))
        ]
    )
    table = tables.delta_ranges(deltas)
    assert table.columns.tolist() == [
        "family", "expert", "training_seed", "mean", "q50", "q90", "q99", "q999", "max",
        "share_below_0.002", "share_zero", "lost_in_bfloat16", "lost_in_float16", "n",
    ]  # fmt: skip
    assert table["n"].tolist() == [10]
    assert table["q90"].tolist() == pytest.approx([9e-3])


def test_experts_show_settings_and_the_first_of_the_best_epochs() -> None:
    trained = {
        "family": "minilm", "expert": "trec", "task": "trec", "seed": 3, "metric": "accuracy",
        "settings": {"learning_rate": 1e-4, "epochs": 3},
        "curve": [
            {"epoch": epoch, "validation": value, "loss": 1.0}
            for epoch, value in ((1.0, 0.5), (2.0, 0.8), (3.0, 0.8))
        ],
    }  # fmt: skip
    ready = {**trained, "expert": "spam", "settings": None, "curve": []}
    table = tables.expert_table([trained, ready])
    first, second = table.iloc[0], table.iloc[1]
    assert (first["best_epoch"], first["best_validation"], first["epochs"]) == (2, 0.8, 3)
    assert (first["training_seed"], first["learning_rate"]) == (3, 1e-4)
    assert np.isnan(second["best_validation"])
    assert list(tables.expert_table([]).columns) == list(table.columns)


VLLM, PLAIN = "vllm 0.9 bfloat16 H100", "transformers 5.1 float32 cpu"


def decoder(**values: Any) -> dict[str, Any]:
    """Return a row of scores of a decoder, by default of `math` on `gsm8k` by vLLM."""
    defaults = {"family": "llama", "experts": "math", "task": "gsm8k", "engine": VLLM}
    head = values.get("experts", "math").split("+")[0]
    return row(**{**defaults, "head": head, **values})


DECODERS = [
    decoder(value=0.60, stderr=0.02),
    decoder(value=0.20, metric="unparsed", primary=False),
    decoder(value=0.10, sparsifier="drop_only", rate=1.0, mask_seed=0),
    decoder(value=0.40, stderr=0.02, sparsifier="dare", rate=0.9, mask_seed=0),
    decoder(value=0.50, stderr=0.04, sparsifier="dare", rate=0.9, mask_seed=1),
    decoder(value=0.30, metric="unparsed", primary=False, sparsifier="dare", rate=0.9, mask_seed=0),
    decoder(study="merges", experts="math+code", value=0.55),
    decoder(study="merges", experts="math+code", value=0.45, split="validation", n=50),
    decoder(study="merges", experts="math+code", value=0.15, metric="unparsed", primary=False),
]


def test_every_metric_of_every_decoder_is_listed_with_its_engine() -> None:
    table = tables.benchmarks(frame([*SWEEP, *DECODERS]))
    assert set(table["family"]) == {"llama"}
    assert len(table) == 8
    dare = only(table, sparsifier="dare", metric="accuracy")
    assert (dare["mean"], dare["min"], dare["max"], dare["runs"]) == (0.45, 0.40, 0.50, 2)
    assert dare["std"] == pytest.approx(np.std([0.4, 0.5], ddof=1))
    assert (dare["stderr"], dare["n"]) == (pytest.approx(0.03), 500)
    assert only(table, sparsifier="dare", metric="unparsed")["mean"] == 0.30
    assert set(table["engine"]) == {VLLM}
    assert only(table, split="validation")["n"] == 50


def test_answers_of_two_engines_are_never_averaged() -> None:
    other = decoder(value=0.9, sparsifier="dare", rate=0.9, mask_seed=2, engine=PLAIN)
    table = tables.benchmarks(frame([*DECODERS, other]))
    dare = table[(table["sparsifier"] == "dare") & (table["metric"] == "accuracy")]
    assert dict(zip(dare["engine"], dare["mean"], strict=True)) == {VLLM: 0.45, PLAIN: 0.9}


def test_a_value_without_a_standard_error_is_listed() -> None:
    rows = [
        decoder(value=800.0, stderr=float("nan"), metric="output_characters", primary=False),
        decoder(value=0.5, stderr=float("nan"), n=1),
    ]
    table = tables.benchmarks(frame(rows))
    assert table["mean"].tolist() == [800.0, 0.5]
    assert table["stderr"].isna().all()
    assert table["n"].tolist() == [500, 1]


def test_tables_compare_the_primary_metric_only() -> None:
    scores = frame(DECODERS)
    points = tables.drop_rates(scores)
    assert set(points["metric"]) == {"accuracy"}
    assert only(points, sparsifier="dare")["mean"] == pytest.approx(0.45)
    merged = only(tables.merges(scores), experts="math+code")
    assert (merged["mean"], merged["expert"], merged["base"]) == (0.55, 0.60, 0.10)
    assert set(tables.merges(scores)["metric"]) == {"accuracy"}
    assert only(tables.merge_candidates(scores), experts="math+code")["mean"] == 0.45


def test_a_single_engine_is_not_part_of_task_names() -> None:
    assert set(tables.drop_rates(frame([*SWEEP, *DECODERS]))["task"]) == {"trec", "sms", "gsm8k"}


def test_the_reference_of_a_benchmark_is_the_expert_it_measures() -> None:
    of_lm = {"experts": "lm", "head": "lm"}
    rows = [
        *DECODERS,
        decoder(value=0.02, **of_lm),
        decoder(value=0.01, sparsifier="drop_only", rate=1.0, mask_seed=0, **of_lm),
        decoder(study="merges", experts="math+lm", value=0.58),
    ]
    merged = only(tables.merges(frame(rows)), experts="math+lm")
    assert (merged["expert"], merged["base"]) == (0.60, 0.10)
    assert merged["retained"] == pytest.approx(0.48 / 0.50)
    summary = tables.merge_summary(frame(rows))
    single = only(summary, experts="math+lm", method=tables.SINGLE, task="gsm8k")
    assert single["mean"] == 0.60


def test_tasks_name_the_engine_if_engines_differ() -> None:
    other = decoder(study="merges", experts="math+code", value=0.7, method="ties", engine=PLAIN)
    scores = frame([*SWEEP, *DECODERS, other])
    marked = f"gsm8k [{PLAIN}]"
    actual = tables.merges(scores)
    assert set(actual["task"]) == {f"gsm8k [{VLLM}]", marked}
    # The single expert answered in the other engine.
    assert np.isnan(only(actual, task=marked)["expert"])
    assert only(actual, task=f"gsm8k [{VLLM}]")["expert"] == 0.60
    # Another family has one engine, and its tasks go by their names.
    points = tables.drop_rates(scores)
    assert set(points.loc[points["family"] == "minilm", "task"]) == {"trec", "sms"}


def test_engines_of_secondary_metrics_are_not_part_of_task_names() -> None:
    other = decoder(value=0.8, task="arc_easy", primary=False, engine="lm-eval 0.4")
    assert set(tables.drop_rates(frame([*DECODERS, other]))["task"]) == {"gsm8k"}
    assert only(tables.benchmarks(frame([*DECODERS, other])), task="arc_easy")["mean"] == 0.8


def test_decoders_show_settings_adapters_and_the_last_loss() -> None:
    settings = {"learning_rate": 2e-5, "epochs": 2, "lora": {"rank": 8, "alpha": 16.0}}
    curve = [{"epoch": 1.0, "loss": 1.5}, {"epoch": 2.0, "loss": 1.25}]
    place = {"family": "llama", "training_seed": 3}
    table = tables.decoder_table(
        [
            {**place, "expert": "math", "training": {"settings": settings, "curve": curve}},
            {
                **place,
                "expert": "code",
                "training": {"settings": {**settings, "lora": None}, "curve": curve},
            },
            {**place, "expert": "ready", "training": {}},
        ]
    )
    assert table["expert"].tolist() == ["math", "code", "ready"]
    assert table["validation_loss"].tolist()[:2] == [1.25, 1.25]
    assert table["lora_rank"].tolist()[0] == 8
    assert table["lora_rank"].isna().tolist() == [False, True, True]
    assert table.loc[2, ["learning_rate", "epochs", "validation_loss"]].isna().all()
    assert list(tables.decoder_table([]).columns) == list(table.columns)


def test_decoders_are_read_from_their_folders_and_ready_ones_have_no_training(
    tmp_path: Path,
) -> None:
    folders = [tmp_path / "llama-2.7b" / "experts" / name / "seed~4" for name in ("math", "ready")]
    for folder in folders:
        folder.mkdir(parents=True)
    training = {"settings": {"epochs": 1}, "curve": [{"epoch": 1.0, "loss": 0.5}]}
    (folders[0] / "training.json").write_text(json.dumps(training))
    results = Results.from_files({"decoders": [str(folder) for folder in folders]})
    table = TABLES["decoders"].make(results)
    assert table[["family", "expert", "training_seed"]].to_numpy().tolist() == [
        ["llama-2.7b", "math", 4],
        ["llama-2.7b", "ready", 4],
    ]
    assert table["validation_loss"][0] == 0.5
    assert np.isnan(table["validation_loss"][1])


def test_a_configured_licence_replaces_that_of_the_source(tmp_path: Path) -> None:
    record = {"kind": "hub", "source": "hub:a/b", "licence": "mit", "resolved": "abc", "bytes": 1}
    for name in ("base~llama-2.7b", "benchmark~gsm8k"):
        (tmp_path / f"{name}.json").write_text(json.dumps({**record, "sha256": None}))
    request = json.dumps({"licences": {"base~llama-2.7b": "llama2", "benchmark~gsm8k": None}})
    files = [str(path) for path in sorted(tmp_path.iterdir())]
    table = TABLES["sources"].make(Results.from_files({"sources": files}, request))
    assert table[["name", "licence"]].to_numpy().tolist() == [
        ["base~llama-2.7b", "llama2"],
        ["benchmark~gsm8k", "mit"],
    ]


def test_several_files_of_scores_are_one_table(tmp_path: Path) -> None:
    for name, rows in {"one": SWEEP, "two": DECODERS}.items():
        frame(rows).to_parquet(tmp_path / f"{name}.parquet")
    files = {"scores": [str(tmp_path / "one.parquet"), str(tmp_path / "two.parquet")]}
    table = TABLES["benchmarks"].make(Results.from_files(files))
    pd.testing.assert_frame_equal(table, tables.benchmarks(frame([*SWEEP, *DECODERS])))
