"""Figures: their content, that nothing is cut off, and that equal input gives equal bytes."""

import html
import json
import re
from itertools import combinations
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from mergegrid.study.reporting.delta_figures import deltas_figure
from mergegrid.study.reporting.figures import drop_rate_figure, merges_figure
from mergegrid.study.reporting.files import markdown_table, write_figure, write_table
from mergegrid.study.reporting.style import (
    METHOD_ORDER,
    SPARSIFIER_ORDER,
    method_look,
    sparsifier_look,
)
from mergegrid.study.scoring.scores import score_frame

RATES = [0.1, 0.3, 0.5, 0.7, 0.9, 0.95, 0.99]
ALL_RATES = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.99]
GLUE = ["cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte"]
METRICS = {"cola": "matthews", "stsb": "spearman"}
FALL = {"dare": 9.0, "drop_only": 4.0, "magnitude": 6.0, "masked_finetuned": 0.8}


def row(**values: Any) -> dict[str, Any]:
    """Return a row of test scores of a sweep."""
    settings = {"sparsifier": values.pop("settings", {}), "method": {}}
    built = {
        "study": "sweep", "family": "minilm", "experts": "trec", "training_seed": 0,
        "sparsifier": "none", "rate": 0.0, "mask_seed": None, "method": "average",
        "settings": json.dumps(settings, sort_keys=True), "task": "trec", "split": "test",
        "metric": "accuracy",
        "stderr": 0.01, "n": 500, "selected": True, "selection": "validation", "recipe": "slug",
        **values,
    }  # fmt: skip
    point = [built[name] for name in ("experts", "method", "sparsifier", "rate", "mask_seed")]
    return {"recipe_digest": f"{point} {settings}", **built}


def sweep(tasks: list[str], rates: list[float], seeds: int, scopes: bool = False) -> pd.DataFrame:
    """Make curves that fall with the rate, differently for each sparsifier."""
    noise = np.random.default_rng(0)
    rows = []
    for index, task in enumerate(tasks):
        best, worst = 0.93 - 0.05 * index, 0.5 - 0.06 * index
        named = {"experts": task, "task": task, "metric": METRICS.get(task, "accuracy")}
        rows.append(row(value=best, **named))
        rows.append(row(value=worst, sparsifier="drop_only", rate=1.0, mask_seed=0, **named))
        for kind, pace in FALL.items():
            for rate in rates:
                for seed in range(1 if kind == "magnitude" else seeds):
                    for scope in (
                        ["per_tensor", "global"] if scopes and kind == "magnitude" else [""]
                    ):
                        kept = (1 - rate ** (pace - (scope == "global"))) ** 2
                        value = worst + (best - worst) * kept + noise.normal(0, 0.012)
                        mask = None if kind == "magnitude" else seed
                        settings = {"scope": scope} if scope else {}
                        point = {"sparsifier": kind, "rate": rate, "mask_seed": mask}
                        rows.append(row(value=value, settings=settings, **point, **named))
    return score_frame(rows)


def study_of_merges(
    tasks: list[str], sets: list[tuple[str, ...]], seeds: int = 3, selection: str = "validation"
) -> pd.DataFrame:
    """Make merges of every set by three methods, without a sparsifier and with DARE."""
    noise = np.random.default_rng(1)
    rows = []
    for names in sets:
        for method, loss in (("average", 0.3), ("task_arithmetic", 0.22), ("ties", 0.18)):
            for kind, rate in (("none", 0.0), ("dare", 0.5 if method == "ties" else 0.9)):
                for seed in range(seeds if kind == "dare" else 1):
                    for task in names:
                        value = 0.9 - 0.05 * tasks.index(task) - loss + noise.normal(0, 0.015)
                        point = {"sparsifier": kind, "rate": rate, "method": method, "task": task}
                        point |= {"mask_seed": seed if kind == "dare" else None}
                        rows.append(
                            row(
                                study="merges", experts="+".join(names), head=task, value=value,
                                selection=selection, **point,
                            )
                        )  # fmt: skip
    return pd.concat([sweep(tasks, RATES, seeds), score_frame(rows)], ignore_index=True)


def sizes(experts: list[str], scale: float = 3e-4) -> pd.DataFrame:
    noise = np.random.default_rng(2)
    shares = [*np.arange(1, 100) / 100, 0.999]
    names = [*(f"q{percent:02d}" for percent in range(1, 100)), "q999"]
    rows = []
    for index, expert in enumerate(experts):
        deltas = np.abs(noise.normal(0, scale * 1.4**index, 20_000))
        quantiles = dict(zip(names, np.quantile(deltas, shares), strict=True))
        place = {"family": "minilm", "expert": expert, "training_seed": 0, "tensor": "all"}
        below, mean = (deltas < 0.002).mean(), deltas.mean()
        rows.append(
            {
                **place,
                "n": len(deltas),
                "mean": mean,
                "max": deltas.max(),
                "share_below_0.002": below,
            }
            | quantiles
        )
        rows.append({**rows[-1], "tensor": "layer.0", "max": 99.0})
    return pd.DataFrame(rows)


FOUR = ["trec", "spam", "rankm", "rte"]
SEVEN_SETS = [*combinations(FOUR, 2), tuple(FOUR)]
FIGURES = {
    "drop_rates": lambda: drop_rate_figure(sweep(FOUR, RATES, 3), "minilm"),
    "drop_rates_8": lambda: drop_rate_figure(sweep(GLUE, ALL_RATES, 3, scopes=True), "minilm"),
    "drop_rates_5": lambda: drop_rate_figure(sweep(GLUE[:5], RATES, 1), "minilm"),
    "drop_rates_1": lambda: drop_rate_figure(sweep(["trec"], RATES, 1), "minilm"),
    "merges": lambda: merges_figure(study_of_merges(FOUR, SEVEN_SETS), "minilm"),
    "merges_1": lambda: merges_figure(study_of_merges(FOUR, [("trec", "rte")], 1), "minilm"),
    "merges_replayed": lambda: merges_figure(
        study_of_merges(FOUR, SEVEN_SETS[:3], 1, selection="test"), "minilm"
    ),
    "merges_28": lambda: merges_figure(
        study_of_merges(GLUE, [*combinations(GLUE, 2)]), "minilm"
    ),
    "deltas": lambda: deltas_figure(sizes(FOUR), "minilm"),
    "deltas_8": lambda: deltas_figure(sizes(GLUE, 2e-5), "minilm"),
    "nothing": lambda: merges_figure(sweep(["trec"], RATES, 1), "minilm"),
}  # fmt: skip


def texts(figure: Figure) -> set[str]:
    return {text.get_text() for text in drawn_texts(figure)}


def drawn_texts(figure: Figure) -> list[Text]:
    """Return the visible texts: tick labels beyond the limits of an axis are not drawn."""
    hidden = set()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]:
                if not low <= tick.get_loc() <= high:
                    hidden |= {tick.label1, tick.label2}
    actual = figure.findobj(Text)
    return [t for t in actual if t.get_visible() and t.get_text().strip() and t not in hidden]


@pytest.mark.parametrize("name", FIGURES)
def test_no_text_leaves_the_figure(name: str) -> None:
    figure = FIGURES[name]()
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    page = figure.bbox
    for text in drawn_texts(figure):
        box = text.get_window_extent(canvas.get_renderer())
        inside = page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0 and box.y1 <= page.y1
        assert inside, f"{text.get_text()!r} at {box} is outside {page}"


@pytest.mark.parametrize("name", FIGURES)
def test_titles_do_not_overlap(name: str) -> None:
    figure = FIGURES[name]()
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    heads = [axes.title for axes in figure.axes if axes.title.get_text()]
    loose = [t for t in figure.texts if t.get_text()] + [t for g in figure.legends for t in g.texts]
    boxes = [text.get_window_extent(canvas.get_renderer()) for text in [*heads, *loose]]
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))


@pytest.mark.parametrize("name", ["drop_rates", "merges", "merges_28", "deltas"])
def test_the_same_input_gives_the_same_bytes(name: str, tmp_path: Path) -> None:
    for turn in ("one", "two"):
        figure = FIGURES[name]()
        write_figure(figure, tmp_path / turn / "figure.svg", tmp_path / turn / "figure.png")
    for kind in ("svg", "png"):
        one, two = ((tmp_path / turn / f"figure.{kind}").read_bytes() for turn in ("one", "two"))
        assert one == two
        assert b"atplotlib" not in one.replace(b"matplotlib.axis", b"")
        assert not re.search(rb"<dc:date>|tIME|20\d\d-\d\d-\d\dT", one)


@pytest.mark.parametrize("name", FIGURES)
def test_every_word_of_the_figure_is_text_in_the_svg(name: str, tmp_path: Path) -> None:
    figure = FIGURES[name]()
    write_figure(figure, tmp_path / "figure.svg", tmp_path / "figure.png")
    svg = html.unescape((tmp_path / "figure.svg").read_text("utf-8"))
    for text in texts(figure):
        for line in text.splitlines():
            assert "$" in line or f">{line}</t" in svg, line


def test_a_figure_is_the_same_whatever_the_settings_of_the_user(tmp_path: Path) -> None:
    write_figure(FIGURES["merges"](), tmp_path / "1.svg", tmp_path / "1.png")
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red", "svg.fonttype": "path"}):
        write_figure(FIGURES["merges"](), tmp_path / "2.svg", tmp_path / "2.png")
        assert matplotlib.rcParams["font.size"] == 30
    assert (tmp_path / "1.svg").read_bytes() == (tmp_path / "2.svg").read_bytes()
    assert (tmp_path / "1.png").read_bytes() == (tmp_path / "2.png").read_bytes()


def test_drop_rates_have_a_panel_per_expert_and_name_every_line() -> None:
    figure = FIGURES["drop_rates_8"]()
    assert [axes.get_title() for axes in figure.axes[:2]] == ["cola (matthews)", "sst2 (accuracy)"]
    assert len(figure.axes) == 8
    assert [text.get_text() for text in figure.legends[0].texts] == [
        "DARE", "drop only", "magnitude (scope=per_tensor)", "magnitude (scope=global)",
        "masked fine-tuned", "base", "smallest to largest over seeds",
    ]  # fmt: skip


def test_lines_start_at_the_expert_and_bands_span_the_seeds() -> None:
    figure = FIGURES["drop_rates"]()
    scores = sweep(FOUR, RATES, 3)
    dare = figure.axes[0].lines[0]
    assert dare.get_ydata()[0] == pytest.approx(0.93)
    at = (scores["sparsifier"] == "dare") & (scores["task"] == "trec") & (scores["rate"] == 0.9)
    values = scores.loc[at, "value"]
    assert dare.get_ydata()[1 + RATES.index(0.9)] == pytest.approx(values.mean())
    corners = figure.axes[0].collections[0].get_paths()[0].vertices
    band = corners[np.isclose(corners[:, 0], 1 + RATES.index(0.9)), 1]
    assert (band.min(), band.max()) == (pytest.approx(values.min()), pytest.approx(values.max()))


def test_one_seed_has_no_band_in_the_legend() -> None:
    assert "smallest to largest over seeds" not in texts(FIGURES["drop_rates_1"]())


def test_experts_of_one_task_have_separate_panels() -> None:
    rows = [row(value=0.8, experts=name, task="trec") for name in ("small", "large")]
    titles = [axes.get_title() for axes in drop_rate_figure(score_frame(rows), "minilm").axes]
    assert titles == ["small on trec (accuracy)", "large on trec (accuracy)"]


def test_seven_sets_get_a_panel_each_with_a_bar_per_method_and_sparsifier() -> None:
    figure = FIGURES["merges"]()
    assert [axes.get_title() for axes in figure.axes][-1] == "all 4 experts"
    assert [len(axes.patches) for axes in figure.axes] == [6] * 7
    assert "p = 0.9" in texts(figure)


def test_many_sets_are_drawn_as_box_plots() -> None:
    figure = FIGURES["merges_28"]()
    assert len(figure.axes) == 1
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels[:4] == ["single experts", "base", "average", "average + DARE"]


def test_selection_on_test_is_stated_in_the_title() -> None:
    assert any("chosen on the test split" in text for text in texts(FIGURES["merges_replayed"]()))
    assert not any("chosen on the test split" in text for text in texts(FIGURES["merges"]()))


def test_delta_shares_are_of_the_whole_model() -> None:
    figure = FIGURES["deltas"]()
    line = figure.axes[0].lines[0]
    whole = sizes(FOUR).iloc[0]
    assert line.get_xdata()[-1] == whole["max"]
    assert line.get_xdata()[list(line.get_ydata()).index(0.5)] == whole["q50"]


@pytest.mark.parametrize(
    ("draw", "given"),
    [
        (drop_rate_figure, sweep(["trec"], RATES, 1)),
        (drop_rate_figure, score_frame([])),
        (merges_figure, sweep(["trec"], RATES, 1)),
        (deltas_figure, sizes(["trec"])),
        (deltas_figure, sizes(["trec"]).iloc[:0]),
    ],
)
def test_a_family_without_results_gets_a_sentence(draw, given: pd.DataFrame) -> None:
    figure = draw(given, "other")
    assert not figure.axes
    assert figure.texts[0].get_text().startswith("other: ")


def test_registered_kinds_look_different() -> None:
    for looks in (
        [sparsifier_look(kind) for kind in SPARSIFIER_ORDER],
        [method_look(kind) for kind in METHOD_ORDER],
    ):
        assert len({(look.color, look.marker) for look in looks}) == len(looks)
        assert len({(look.color, look.hatch) for look in looks}) == len(looks)
        assert len({look.label for look in looks}) == len(looks)


def test_tables_are_exact_in_csv_and_rounded_elsewhere(tmp_path: Path) -> None:
    table = pd.DataFrame(
        {"task": ["trec", "rte"], "rate": [0.5, 0.95], "mean": [0.9, 0.912345678],
         "std": [0.0012345, np.nan], "runs": [3, 1], "selected": [True, False]}
    )  # fmt: skip
    write_table(table, *(tmp_path / "new" / f"t.{kind}" for kind in ("csv", "md", "html", "tex")))
    assert (tmp_path / "new" / "t.csv").read_text() == (
        "task,rate,mean,std,runs,selected\n"
        "trec,0.5,0.9,0.0012345,3,True\n"
        "rte,0.95,0.912346,,1,False\n"
    )
    assert (tmp_path / "new" / "t.md").read_text() == (
        "| task   |   rate |   mean |     std |   runs | selected   |\n"
        "|:-------|-------:|-------:|--------:|-------:|:-----------|\n"
        "| trec   |    0.5 |  0.900 | 0.00123 |      3 | True       |\n"
        "| rte    |   0.95 |  0.912 |         |      1 | False      |\n"
    )
    page = (tmp_path / "new" / "t.html").read_text()
    cells = re.findall(r"<t[hd](?: class=\"number\")?>(.*?)</t[hd]>", page)
    assert cells == [*table.columns, "trec", "0.5", "0.900", "0.00123", "3", "True",
                     "rte", "0.95", "0.912", "", "1", "False"]  # fmt: skip


def test_an_empty_table_keeps_its_head_and_says_so() -> None:
    assert markdown_table(pd.DataFrame(columns=["task", "mean"])) == (
        "| task | mean |\n| --- | --- |\n\nNo rows: this study has nothing for this table.\n"
    )
