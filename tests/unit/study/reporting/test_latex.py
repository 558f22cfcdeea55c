"""LaTeX tables: everything escaped and every environment closed."""

import re

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mergegrid.study.reporting.files import write_table
from mergegrid.study.reporting.latex import LONG, escaped, latex_table

SPECIAL = r"\&%$#_{}~^"


@given(st.text(alphabet=SPECIAL + 'ab ±<>|"', max_size=30))
def test_escaped_text_has_no_special_characters_of_latex(text):
    left = re.sub(r"\\[&%$#_{}]|\\[a-z]+\{\}|\$\\pm\$", "", escaped(text))
    assert not set(SPECIAL) & set(left)


def built(count):
    return pd.DataFrame(
        {
            "task_name": ["50 % of R&D #1"] * count,
            "settings": ['{"method":{"scope":"per_tensor"},"x":[1,2,3]}' * 3] * count,
            "mean": [0.123456] * count,
        }
    )


def written(frame, tmp_path, caption="What `a_b` is"):
    paths = [tmp_path / f"t_1.{kind}" for kind in ("csv", "md", "html", "tex")]
    write_table(frame, *paths, caption)
    return paths[-1].read_text()


def check(text, columns):
    """Check that braces and environments are balanced and that rows have the cells of the head."""
    plain = re.sub(r"\\[{}\\&%]", "", text)
    depth = 0
    for character in plain:
        depth += {"{": 1, "}": -1}.get(character, 0)
        assert depth >= 0
    assert depth == 0
    open_ones = []
    for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", text):
        if kind == "begin":
            open_ones.append(name)
        else:
            assert open_ones.pop() == name
    assert not open_ones
    rows = [line for line in text.splitlines() if line.endswith(r"\\") and " & " in line]
    assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {columns - 1}
    return len(rows)


def test_a_short_table_shrinks_to_the_width_of_the_text(tmp_path):
    text = written(built(3), tmp_path)
    assert check(text, 3) == 4
    assert r"\resizebox{\ifdim\width>\linewidth" in text
    assert r"50 \% of R\&D \#1" in text
    assert r"\caption{What \texttt{a\_b} is}\label{tab:t_1}" in text
    assert r"\begin{tabular}{llr}" in text
    assert "longtable}" not in text.partition("\n")[2]


def test_a_long_table_breaks_over_pages_and_a_wide_one_into_lines(tmp_path):
    text = written(built(LONG + 1), tmp_path)
    assert check(text, 3) == LONG + 3
    assert r"\endhead" in text
    assert r"\begin{landscape}" in text
    shares = [float(share) for share in re.findall(r"p\{([\d.]+)\\linewidth\}", text)]
    assert len(shares) == 1
    assert sum(shares) < 1
    assert r"\allowbreak{}" in text


def test_an_empty_table_says_so(tmp_path):
    text = written(built(0), tmp_path)
    assert "No rows." in text
    assert check(text, 3) == 1


@pytest.mark.parametrize("text", ["mean ± std", "p ≥ 0.9"])
def test_symbols_are_typeset_as_mathematics(text):
    assert "$" in latex_table([text], [], [False], "t", "t")
