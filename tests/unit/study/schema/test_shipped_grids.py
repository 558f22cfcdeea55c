"""Grids of the shipped studies: what they say of the paper's, and that their merges can be made."""

from pathlib import Path

import pytest
import yaml

CONFIG = Path(__file__).parents[4] / "config"


def methods(study, kind):
    content = yaml.safe_load((CONFIG / study).read_text())
    merges = content.get("encoders", content.get("decoders"))["merges"]
    return [each for each in merges["methods"] if each["kind"] == kind]


def test_the_pooler_of_bert_is_not_merged_from_a_singular_sum():
    (regmean,) = methods("paper_encoders.yaml", "regmean")
    # It sees one token of each text, of two experts, and has 768 columns.
    assert 2 * min(regmean["examples"]) < 768
    assert max(regmean["offdiagonal"]) == 1
    assert regmean["ridge"] >= 1e-5


@pytest.mark.parametrize("study", ["paper_decoders.yaml", "modern.yaml"])
def test_ties_of_decoders_retains_the_shares_that_the_paper_searched(study):
    (ties,) = methods(study, "ties")
    assert {round(1 - share, 9) for share in ties["trim"]} == {0.5, 0.7, 0.9}


def test_published_experts_have_the_papers_learning_rate_where_nothing_else_is_said():
    families = yaml.safe_load((CONFIG / "paper_encoders.yaml").read_text())["encoders"]["families"]
    roberta, published = families["roberta"], families["roberta-published"]
    other = {
        name
        for name, expert in published["experts"].items()
        for own in [roberta["experts"][name].get("finetune", roberta["finetune"])]
        if float(expert["source"]["source"].rsplit("lr", 1)[1]) != own["learning_rate"]
    }
    assert other == {"mrpc"}
    measured = (CONFIG.parent / "resources" / "measured.csv").read_text()
    assert all(f"{name.upper()} with a different learning rate" in measured for name in other)
