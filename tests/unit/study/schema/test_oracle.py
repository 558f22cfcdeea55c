import pytest
import yaml
from typer.testing import CliRunner

from mergegrid.cli import app
from mergegrid.errors import ConfigError
from mergegrid.study.schema.encoder_jobs import oracle_request


def test_a_study_has_no_oracle_unless_it_asks_for_one(content, read):
    assert read(content).oracle_sets("bert") == []
    assert read({**content, "oracle": {}}).oracle_sets("bert") == [("rte", "stsb")]


def test_an_oracle_goes_by_the_order_of_the_experts_in_the_merge_of_the_same_set(content, read):
    content["merges"]["sets"] = [["stsb", "rte"]]
    assert read({**content, "oracle": {}}).oracle_sets("bert") == [("stsb", "rte")]


def test_an_oracle_takes_the_familys_values_with_its_own_on_top_and_no_experts(content, read):
    content["families"]["bert"]["finetune"] = {"epochs": 4}
    study = read({**content, "oracle": {"finetune": {"batch_size": 32}}})
    request = oracle_request(study, "bert", ("rte", "stsb"), 3)
    assert (request.settings.epochs, request.settings.batch_size) == (4, 32)
    # stsb is fine-tuned at 5e-5.
    assert request.settings.learning_rate == 1e-5
    assert [target.task for target in request.targets] == ["rte", "stsb"]
    assert [len(target.classes) for target in request.targets] == [2, 0]
    assert request.slug == "bert/rte+stsb/multitask"
    assert request.of_expert("stsb").seed == 3


@pytest.mark.parametrize(
    ("oracle", "told"),
    [
        ({"sets": [["rte", "mnli"]]}, "oracle.sets asks for rte, mnli"),
        ({"sets": [["rte", "rte"]]}, "rte is listed more than once"),
        ({"sets": [["rte", "stsb"], ["stsb", "rte"]]}, "listed more than once"),
        ({"sets": ["pairs", "pairs"]}, "pairs is listed more than once"),
        ({"sets": []}, "oracle.sets"),
        ({"sets": ["every"]}, "oracle.sets"),
        ({"finetune": {"epochs": 0}}, "oracle.finetune.epochs"),
    ],
)
def test_what_is_wrong_is_said_with_its_key(content, oracle, told, read):
    with pytest.raises(ConfigError, match=told):
        read({**content, "oracle": oracle})


def test_an_oracle_needs_two_experts_of_a_family(content, read):
    del content["families"]["bert"]["experts"]["stsb"]
    with pytest.raises(ConfigError, match=r"oracle.sets asks for two experts.*remove `oracle`"):
        read({**content, "oracle": {}})


def test_a_check_counts_the_oracles(content, tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump({"encoders": {**content, "oracle": {}}}))
    result = CliRunner().invoke(app, ["check", str(path)])
    assert result.stdout == f"{path}: OK, tasks: 2, encoder experts: 2, oracles: 1\n"
