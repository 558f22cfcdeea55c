import pytest

from mergegrid.errors import ConfigError
from mergegrid.study.schema.encoder_jobs import finetune_request


@pytest.fixture
def borrowed(content):
    """A study whose second family measures an expert of the first from another base."""
    (name,) = list(content["families"])[:1]
    family = content["families"][name]
    expert = next(iter(family["experts"]))
    task = family["experts"][expert].get("task", expert)
    content["families"] = {
        name: family,
        "other": {"base": family["base"], "experts": {expert: {"family": name, "task": task}}},
    }
    return content, name, expert


def test_an_expert_of_another_family_is_imported_and_not_trained(borrowed, read):
    content, name, expert = borrowed
    study = read(content)
    request = finetune_request(study, "other", expert, 0)
    assert request.settings is None
    assert request.target.task == finetune_request(study, name, expert, 0).target.task


@pytest.mark.parametrize("owner", ["nobody", "other"])
def test_a_family_that_makes_no_such_expert_is_refused(borrowed, owner, read):
    content, _, expert = borrowed
    content["families"]["other"]["experts"][expert]["family"] = owner
    with pytest.raises(
        ConfigError,
        match=rf"family = '{owner}' neither fine-tunes nor fetches an expert {expert}; ch",
    ):
        read(content)


def test_an_expert_of_another_family_is_neither_fetched_nor_trained(borrowed, read):
    content, _, expert = borrowed
    content["families"]["other"]["experts"][expert]["finetune"] = {"epochs": 1}
    with pytest.raises(ConfigError, match="give `family` alone"):
        read(content)


def test_both_families_score_it_on_one_task(borrowed, read):
    content, _, expert = borrowed
    task = next(iter(content["tasks"].values()))
    content["tasks"]["another"] = task
    content["families"]["other"]["experts"][expert]["task"] = "another"
    with pytest.raises(ConfigError, match="give both the same task"):
        read(content)
