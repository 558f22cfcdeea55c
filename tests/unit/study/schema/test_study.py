from collections import Counter
from pathlib import Path

import pytest
from scipy import stats
from snakemake.common.configfile import load_configfile
from snakemake.utils import update_config

from mergegrid.errors import ConfigError
from mergegrid.sparsifiers.dare import Dare
from mergegrid.sparsifiers.magnitude import Magnitude
from mergegrid.sparsifiers.none import NoSparsifier
from mergegrid.study.schema.documentation import SCHEMAS, schema_text, with_references
from mergegrid.study.schema.encoder_jobs import merges_request
from mergegrid.study.schema.finetuning import Finetune
from mergegrid.study.schema.grids import RandomSets
from mergegrid.study.schema.loading import check_study, read_study
from mergegrid.study.schema.study import Study

CONFIG = Path(__file__).parents[4] / "config"


SHIPPED = sorted(path.stem for path in CONFIG.glob("*.yaml"))


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_configuration_is_valid(name):
    read_study(CONFIG / f"{name}.yaml")


def test_the_readme_of_the_folder_names_every_shipped_configuration():
    readme = (CONFIG / "README.md").read_text()
    assert [name for name in SHIPPED if f"| `{name}.yaml` |" not in readme] == []


@pytest.mark.parametrize("name", SCHEMAS)
def test_the_schema_is_current(name):
    assert (CONFIG / name).read_text() == schema_text(SCHEMAS[name]), "run `make docs`"


def test_values_have_one_schema_for_all_their_fields():
    schema = schema_text(SCHEMAS["merge.schema.json"])
    for value in ("RateValue", "ShareValue", "WeightValue", "Value"):
        assert schema.count(f'"{value}": {{') == 1
        assert schema.count(f'"$ref": "#/$defs/{value}"') > 1


def test_a_description_is_the_docstring_below_the_field_in_grids_and_overrides_too():
    schema = Study.model_json_schema()["$defs"]
    rate = schema["DareGrid"]["properties"]["rate"]["description"]
    assert rate == "Share p that is dropped. Unset: the study's."
    for kind in ("Finetune", "FinetuneOverride"):
        assert (
            schema[kind]["properties"]["epochs"]["description"] == Finetune.descriptions()["epochs"]
        )


def test_the_references_in_the_readme_are_current():
    readme = (CONFIG / "README.md").read_text()
    assert readme == with_references(readme), "run `make docs`"


def test_an_experts_own_values_replace_the_familys(content, read):
    family = read(content).families["bert"]
    assert family.finetune_of("stsb").learning_rate == 5e-5
    assert family.finetune_of("rte").learning_rate == 1e-5
    assert family.finetune_of("stsb").epochs == family.finetune_of("rte").epochs == 10


def test_the_sweep_is_every_sparsifier_rate_and_seed_once(content, read):
    content |= {"rates": [0, 0.5, 1], "seeds": {"mask": [0, 1]}}
    recipes = read(content).sweep_recipes("bert", "rte", 0)
    kinds = [
        (recipe.sparsifier.kind, getattr(recipe.sparsifier, "rate", None)) for recipe in recipes
    ]
    assert sorted(set(kinds), key=str) == sorted(
        [
            ("none", None),
            ("drop_only", 1.0),
            ("dare", 0.5),
            ("drop_only", 0.5),
            ("magnitude", 0.5),
            ("masked_finetuned", 0.5),
            ("masked_finetuned", 1.0),
        ],
        key=str,
    )
    assert kinds.count(("dare", 0.5)) == 2
    assert kinds.count(("magnitude", 0.5)) == 1
    assert kinds.count(("none", None)) == 1
    assert len(set(recipes)) == len(recipes)


def test_unset_rates_and_seeds_of_a_grid_are_the_studys(content, read):
    study = read(content | {"rates": [0.5, 0.9], "seeds": {"mask": [4]}})
    grids = {grid.kind: grid for grid in study.sweep.sparsifiers}
    assert study.sparsifier_candidates(grids["dare"]) == [
        Dare(rate=0.5, seed=4),
        Dare(rate=0.9, seed=4),
    ]
    assert study.sparsifier_candidates(grids["magnitude"]) == [
        Magnitude(rate=0.5),
        Magnitude(rate=0.9),
    ]


def test_sets_are_pairs_all_or_named(content, read):
    content["families"]["bert"]["experts"]["rte2"] = {"task": "rte"}
    # The last one is a pair already.
    content["merges"]["sets"] = ["pairs", "all", ["rte2", "rte"]]
    sets = read(content).expert_sets("bert")
    assert sets == [
        ("rte", "stsb"),
        ("rte", "rte2"),
        ("stsb", "rte2"),
        ("rte", "stsb", "rte2"),
    ]


def test_sets_are_drawn_at_random(content, read):
    def drawn(names, count, size, seed=0):
        rte = {"task": "rte"}
        content["families"]["bert"]["experts"] = dict.fromkeys(names, rte)
        content["merges"]["sets"] = [{"random": count, "size": size, "seed": seed}]
        return read(content).expert_sets("bert")

    names = [f"expert{number}" for number in range(8)]
    fours = drawn(names, 8, 4)
    assert len(set(fours)) == 8
    assert all(experts == tuple(sorted(experts)) and len(experts) == 4 for experts in fours)
    assert drawn(names, 12, 4)[:8] == fours
    assert drawn(names, 8, 4, seed=1) != fours
    assert set(map(frozenset, drawn(names[::-1], 8, 4))) == set(map(frozenset, fours))
    # No set is more likely than another: of 28 pairs, each is drawn first by a 28th of the seeds.
    draw = [RandomSets(random=1, size=2, seed=seed).draw(names)[0] for seed in range(2800)]
    assert stats.chisquare(list(Counter(draw).values())).pvalue > 0.01
    assert len(drawn(names, 70, 4)) == 70
    with pytest.raises(ConfigError, match="71 sets of 4 experts, and a family of 8 has 70"):
        drawn(names, 71, 4)


def test_a_study_without_merges_or_without_sweep_is_possible(content, read):
    assert read(content | {"merges": None}).expert_sets("bert") == []
    assert read(content | {"sweep": None}).expert_sets("bert") == [("rte", "stsb")]


def test_a_request_does_not_change_when_another_family_or_task_is_added(content, read):
    before = read(content)
    content["families"]["other"] = content["families"]["bert"]
    content["tasks"]["extra"] = content["tasks"]["rte"]
    after = read(content)
    assert before.sweep_recipes("bert", "rte", 0) == after.sweep_recipes("bert", "rte", 0)
    assert before.target("bert", "rte") == after.target("bert", "rte")
    pair = ["rte", "stsb"]
    assert merges_request(before, "bert", pair, 0) == merges_request(after, "bert", pair, 0)


def test_merge_candidates_are_the_product_of_the_listed_values(content, read):
    request = merges_request(read(content), "bert", ["rte", "stsb"], 0)
    assert [[each.kind for each in group] for group in request.methods] == [
        ["average"],
        ["ties", "ties"],
    ]
    assert request.sparsifiers[0] == [NoSparsifier()]
    assert request.sparsifiers[1] == [Dare(rate=0.9, seed=seed) for seed in (0, 1, 2)]


def test_ready_experts_are_no_runs_of_several_training_seeds(content, read):
    content["seeds"] = {"training": [3, 4]}
    family = content["families"]["bert"]
    fine_tuned = read(content)
    assert fine_tuned.training_seeds("bert") == [3, 4]
    for name in family["experts"]:
        family["experts"][name] = {"source": {"source": f"hub:org/{name}"}}
    ready = read(content)
    assert ready.training_seeds("bert") == [3]
    borrowed = {name: {"family": "bert"} for name in family["experts"]}
    content["families"]["other"] = {"base": family["base"], "experts": borrowed}
    both = read(content)
    assert both.training_seeds("other") == [3]


def test_several_files_are_joined_as_snakemake_joins_them(monkeypatch):
    monkeypatch.setenv("GLUE_DATA", "glue")
    files = [CONFIG / "glue_small.yaml", CONFIG / "overlays" / "ranking.yaml"]
    joined = {}
    for file in files:
        update_config(joined, load_configfile(str(file)))
    study = read_study(*files)
    assert study == check_study(joined, "joined")
    assert study.encoders.merges.aim == "mean"
    assert list(study.encoders.tasks) == list(read_study(files[0]).encoders.tasks)
