import numpy as np
import pandas as pd
import pytest

from mergegrid.checkpoints.checkpoint import InMemory
from mergegrid.delta_reports.sizes import delta_sizes
from mergegrid.study.reporting import tables
from mergegrid.study.reporting.catalogue import TABLES
from mergegrid.study.reporting.delta_figures import delta_histograms_figure
from mergegrid.study.reporting.similarity_figures import similarity_figure


@pytest.fixture(scope="module")
def deltas():
    """Two experts; a third of the parameters of the second are the base's."""
    random = np.random.default_rng(0)
    rows = []
    for expert, scale in {"small": 1e-4, "large": 1e-2}.items():
        moved = random.standard_normal(3000).astype(np.float32) * np.float32(scale)
        moved[: 1000 * (expert == "large")] = 0
        models = InMemory({"w": np.zeros(3000)}), InMemory({"w": moved})
        rows += [
            {
                "family": "tiny",
                "expert": expert,
                "training_seed": 0,
                **size.row(),
                "histogram": list(size.histogram),
            }
            for size in delta_sizes(*models)
        ]
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def similarity():
    """One expert, three layers; DARE at two rates with two masks, and drop-only at one."""
    points = [("none", 0.0, None, 0.0), ("drop_only", 1.0, 0, 0.4)]
    points += [("dare", rate, seed, rate / 10) for rate in (0.5, 0.9) for seed in (0, 1)]
    points += [("drop_only", 0.9, seed, 0.3) for seed in (0, 1)]
    rows = [
        {
            "family": "tiny",
            "expert": "trec",
            "training_seed": 0,
            "sparsifier": kind,
            "rate": rate,
            "settings": '{"sparsifier":{}}',
            "mask_seed": seed,
            "layer": layer,
            "mean": 1 - loss * layer - 0.01 * bool(seed) * layer,
            "q05": 0.9 - loss * layer,
            "change": loss * layer + 0.01 * bool(seed) * layer,
            "tokens": 40,
            "examples": 8,
        }
        for kind, rate, seed, loss in points
        for layer in range(3)
    ]
    return pd.DataFrame(rows)


def test_delta_tables_show_whole_models_and_losses_to_rounding(deltas):
    table = tables.delta_ranges(deltas)
    assert list(table["expert"]) == ["small", "large"]
    assert table["share_zero"].tolist() == [0, 1 / 3]
    # Around a base of zero nothing is lost to bfloat16, which has the range of float32.
    assert table["lost_in_bfloat16"].tolist() == [0, 0]
    deciles = tables.delta_deciles(deltas)
    values = deciles[["lowest", *(f"d{10 * tenth}" for tenth in range(1, 10)), "highest"]]
    assert (values.diff(axis=1).iloc[:, 1:] >= 0).all().all()
    assert deciles["d50"].iloc[1] == 0


def test_the_histogram_has_a_line_per_expert_that_sums_to_all_deltas(deltas):
    figure = delta_histograms_figure(deltas, "tiny")
    (axis,) = figure.axes
    shares = [patch.get_data().values.sum() for patch in axis.patches]
    assert shares == pytest.approx([1, 1], abs=0.01)
    edges = axis.patches[0].get_data().edges
    assert (edges == -edges[::-1]).all()
    assert axis.get_xscale() == "symlog"
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["small", "large"]


def test_a_family_without_deltas_gets_a_note(deltas):
    figure = delta_histograms_figure(deltas, "other")
    assert "no deltas" in figure.texts[0].get_text()


def test_the_table_of_similarities_has_a_column_per_layer_and_means_over_seeds(similarity):
    table = tables.similarity(similarity)
    assert list(table.columns) == [
        *("family", "expert", "sparsifier", "variant", "rate", "value"),
        *("layer_0", "layer_1", "layer_2", "runs", "tokens"),
    ]
    means = table[table["value"] == "mean"].set_index(["sparsifier", "rate"])
    assert means["layer_2"].to_dict() == pytest.approx(
        {
            ("none", 0.0): 1.0,
            ("base", 1.0): 0.2,
            ("dare", 0.5): 0.89,
            ("dare", 0.9): 0.81,
            ("drop_only", 0.9): 0.39,
        }
    )
    assert list(means["runs"]) == [1, 1, 2, 2, 2]
    quantiles = table[table["value"] == "q05"].set_index(["sparsifier", "rate"])
    assert quantiles["layer_1"]["dare", 0.9] == pytest.approx(0.81)


def test_the_table_of_changed_outputs_is_about_the_last_layer_and_marks_the_least(similarity):
    other = similarity[similarity["sparsifier"] == "dare"].assign(
        settings='{"sparsifier":{"rescale":0.5}}'
    )
    other["change"] += other["rate"].map({0.5: 0.01, 0.9: -0.01})
    table = tables.output_change(pd.concat([similarity, other], ignore_index=True))
    assert list(table.columns) == list(TABLES["output_change"].columns)
    # The second mask of two changes 0.02 more than the first.
    lines = table[["sparsifier", "rate", "variant", "runs"]].itertuples(index=False, name=None)
    assert dict(zip(lines, table["mean"], strict=True)) == pytest.approx(
        {
            ("base", 1.0, "", 1): 0.8,
            ("dare", 0.5, "", 2): 0.11,
            ("dare", 0.5, "rescale=0.5", 2): 0.12,
            ("dare", 0.9, "", 2): 0.19,
            ("dare", 0.9, "rescale=0.5", 2): 0.18,
            ("drop_only", 0.9, "", 2): 0.61,
        }
    )
    assert table["least"].tolist() == [pd.NA, True, False, False, True, pd.NA]


def test_each_model_of_an_expert_has_a_least_change_of_its_own(similarity):
    dare = similarity[similarity["sparsifier"] == "dare"]
    other = dare.assign(settings='{"sparsifier":{"rescale":0.5}}', change=dare["change"] + 0.01)
    second = pd.concat([dare.assign(change=dare["change"] + 0.02), other]).assign(training_seed=1)
    frame = pd.concat([dare, other, second], ignore_index=True)
    table = tables.output_change(frame)
    least = table[table["least"]].set_index(["training_seed", "rate"])["variant"].to_dict()
    assert least == {
        (0, 0.5): "",
        (0, 0.9): "",
        (1, 0.5): "rescale=0.5",
        (1, 0.9): "rescale=0.5",
    }


def test_the_figure_of_similarities_has_a_panel_per_sparsifier_and_a_line_per_rate(similarity):
    figure = similarity_figure(similarity, "tiny")
    panels = {axis.get_title(): axis for axis in figure.axes}
    assert list(panels) == ["trec: DARE", "trec: drop only"]
    # The last line of size panel is the base.
    assert [len(axis.lines) for axis in panels.values()] == [3, 2]
    assert list(panels["trec: DARE"].lines[0].get_ydata()) == pytest.approx([1, 0.945, 0.89])
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["p = 0.5", "p = 0.9", "base"]


def test_similarities_without_a_partial_rate_get_a_note(similarity):
    ends = similarity[similarity["rate"].isin([0, 1])]
    assert "no sparsifier" in similarity_figure(ends, "tiny").texts[0].get_text()
