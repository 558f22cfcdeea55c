import json

import pytest
from pydantic import ValidationError

from mergegrid.engine.sparsifier import Sparsifier
from mergegrid.methods import METHODS
from mergegrid.methods.average import Average
from mergegrid.methods.fisher import Fisher
from mergegrid.methods.regmean import RegMean
from mergegrid.methods.sce import Sce
from mergegrid.methods.slerp import Slerp
from mergegrid.methods.task_arithmetic import TaskArithmetic
from mergegrid.methods.ties import Ties
from mergegrid.recipes.recipe import Recipe, base_only, canonical_sparsifier, settings_slug
from mergegrid.sparsifiers import SPARSIFIERS
from mergegrid.sparsifiers.breadcrumbs import Breadcrumbs
from mergegrid.sparsifiers.dare import Dare
from mergegrid.sparsifiers.della import Della
from mergegrid.sparsifiers.drop_only import DropOnly
from mergegrid.sparsifiers.magnitude import Magnitude
from mergegrid.sparsifiers.masked_finetuned import MaskedFinetuned
from mergegrid.sparsifiers.none import NoSparsifier
from mergegrid.sparsifiers.rates import Rule

RULE = Rule(tensors="norms", rate=0)
#: A spec, and the same with one of its omitted_when_default in use.
REFINED = [
    (Dare(rate=0.9), {"rates": {"a": 0.5}}),
    (Dare(rate=0.9), {"rules": (RULE,)}),
    (DropOnly(rate=0.9), {"rates": {"a": 0.5}}),
    (MaskedFinetuned(rate=0.9), {"rules": (RULE,)}),
    (Magnitude(rate=0.9), {"rates": {"a": 0.5}}),
    (Magnitude(rate=0.9), {"arithmetic": "reference"}),
    (Della(rate=0.9), {"rules": (RULE,)}),
    (Breadcrumbs(rate=0.9), {"rates": {"a": 0.5}}),
    (Average(), {"weights": {"a": 2}}),
    (TaskArithmetic(), {"coefficients": {"a": 2}}),
    (Ties(), {"arithmetic": "reference"}),
    (Ties(), {"weights": {"a": 2}}),
    (Ties(), {"normalize": False}),
    (Average(), {"normalize": False}),
    (TaskArithmetic(), {"normalize": True}),
    (Della(rate=0.9), {"windows": {"a": 0.05}}),
    (Breadcrumbs(rate=0.9), {"largest_of": {"a": 0.05}}),
    (Slerp(), {"weights": {"a": 2}}),
    (Slerp(), {"t": 0.3}),
    (Slerp(), {"arithmetic": "mergekit"}),
    (Fisher(), {"weights": {"a": 2}}),
]


def with_spec(spec):
    part = "sparsifier" if isinstance(spec, Sparsifier) else "method"
    return Recipe(family="f", experts=("a", "b"), **{part: spec})


def refined(spec, fields):
    return type(spec).model_validate({**spec.model_dump(), **fields})


def label(value):
    return value.kind if hasattr(value, "kind") else next(iter(value))


def test_a_recipe_survives_its_own_json():
    recipe = Recipe(
        family="f", experts=("a", "b"), sparsifier=Dare(rate=0.9, seed=3), method=Ties(trim=0.7)
    )
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe


def test_the_digest_does_not_depend_on_how_the_recipe_was_written():
    text = '{"method": {"kind": "average"}, "experts": ["a"], "family": "f"}'
    short = Recipe.model_validate(json.loads(text))
    full = Recipe(
        family="f",
        experts=("a",),
        training_seed=0,
        sparsifier=NoSparsifier(),
        method=Average(),
    )
    assert short.digest == full.digest


@pytest.mark.parametrize(
    "changes",
    [
        {"family": "g"},
        {"experts": ("a", "c")},
        {"training_seed": 1},
        {"sparsifier": Dare(rate=0.9, seed=1)},
        {"method": TaskArithmetic(coefficient=0.5)},
    ],
)
def test_every_part_of_a_recipe_changes_its_digest(changes):
    recipe = Recipe(family="f", experts=("a", "b"), sparsifier=Dare(rate=0.9))
    assert recipe.model_copy(update=changes).digest != recipe.digest


def test_the_slug_names_experts_sparsifier_and_method():
    recipe = Recipe(family="f", experts=("a", "b"), sparsifier=Dare(rate=0.9, seed=1))
    assert recipe.slug == "f/a+b/dare~rate=0.9~seed=1/average"


@pytest.mark.parametrize(
    ("recipe", "digest", "slug"),
    [
        (
            Recipe(family="minilm", experts=("trec",), sparsifier=Dare(rate=0.9, seed=1)),
            "919437d02ddac733b5eff6cd76108dbee5f8617a674661c38ecdfa95fb7a75b9",
            "minilm/trec/dare~rate=0.9~seed=1/average",
        ),
        (
            Recipe(
                family="roberta",
                experts=("cola", "rte"),
                training_seed=3,
                sparsifier=Magnitude(rate=0.5, scope="global", rescale=True),
                method=Ties(coefficient=0.7, trim=0.9, scope="per_tensor"),
            ),
            "7802ad82cb6f5c56dd1c96ff480b8a40f7a157b3d97561b44809928cc2890eca",
            "roberta/cola+rte/magnitude~rate=0.5~scope=global~rescale=True"
            "/ties~coefficient=0.7~trim=0.9~scope=per_tensor",
        ),
        (
            Recipe(
                family="llama",
                experts=("math", "code", "chat"),
                sparsifier=DropOnly(rate=0.3, seed=7),
                method=TaskArithmetic(coefficient=0.5),
            ),
            "1cacc413dc02169e7e38b35725f10fbb97172a03e511486c5e239edc27bfacea",
            "llama/chat+code+math/drop_only~rate=0.3~seed=7/task_arithmetic~coefficient=0.5",
        ),
        (
            Recipe(family="f", experts=("a",), sparsifier=MaskedFinetuned(rate=0.1)),
            "19cc230647c50b07dfa6f1de296383577e822d5cbb7582e9359c506e1f2645e5",
            "f/a/masked_finetuned~rate=0.1~seed=0~rescale=True/average",
        ),
        (
            Recipe(family="f", experts=("a", "b")),
            "d255443022d3703d783ad69cdec3c50efbad20cb3d01eb5d21f63568c3b10734",
            "f/a+b/none/average",
        ),
    ],
    ids=lambda value: value.family if isinstance(value, Recipe) else "",
)
def test_digests_and_slugs_never_change_from_one_version_to_the_next(recipe, digest, slug):
    # Scores and models are found again by these.
    assert (recipe.digest, recipe.slug) == (digest, slug)


@pytest.mark.parametrize(("spec", "fields"), REFINED, ids=label)
def test_a_refinement_that_is_not_used_is_in_no_text_digest_or_slug(spec, fields):
    (name,) = fields
    default = type(spec).model_fields[name].default
    written_out = refined(spec, {name: default})
    assert name in type(spec).omitted_when_default
    assert name not in spec.model_dump()
    assert name not in settings_slug(spec)
    assert with_spec(written_out).model_dump_json() == with_spec(spec).model_dump_json()
    assert with_spec(written_out).digest == with_spec(spec).digest
    assert with_spec(written_out).slug == with_spec(spec).slug


@pytest.mark.parametrize(("spec", "fields"), REFINED, ids=label)
def test_a_refinement_that_is_used_is_in_text_digest_and_slug(spec, fields):
    (name,) = fields
    used = with_spec(refined(spec, fields))
    assert name in used.slug
    assert used.digest != with_spec(spec).digest
    assert used.slug != with_spec(spec).slug
    assert Recipe.model_validate_json(used.model_dump_json()) == used


@pytest.mark.parametrize("spec", [*SPARSIFIERS.values(), *METHODS.values()])
def test_only_what_was_added_later_is_a_refinement(spec):
    assert spec.omitted_when_default <= spec.model_fields.keys()
    assert not spec.omitted_when_default & {"kind", "rate", "seed", "scope", "coefficient", "trim"}


def test_the_digest_does_not_depend_on_the_order_of_rates_and_weights():
    one, other = (
        Recipe(
            family="f",
            experts=("a", "b"),
            sparsifier=Dare(rate=0.9, rates=dict(order(rates.items()))),
            method=Average(weights=dict(order(weights.items()))),
        )
        for rates, weights in [({"a": 0.1, "b": 0.2}, {"a": 1, "b": 2})]
        for order in (list, reversed)
    )
    assert one == other
    assert one.digest == other.digest
    assert one.slug == other.slug


@pytest.mark.parametrize(("spec", "fields"), REFINED, ids=label)
def test_recipes_can_be_keys(spec, fields):
    plain, used = with_spec(spec), with_spec(refined(spec, fields))
    again = Recipe.model_validate_json(used.model_dump_json())
    assert list(dict.fromkeys([plain, used, plain, again])) == [plain, used]


@pytest.mark.parametrize("kind", [Dare, DropOnly, Magnitude, MaskedFinetuned, Della, Breadcrumbs])
def test_at_rate_0_every_sparsifier_is_none(kind):
    assert canonical_sparsifier(kind(rate=0)) == NoSparsifier()


@pytest.mark.parametrize("kind", [Dare, DropOnly, Magnitude, Della, Breadcrumbs])
def test_at_rate_1_every_sparsifier_of_deltas_is_the_base(kind):
    assert canonical_sparsifier(kind(rate=1)) == base_only()


@pytest.mark.parametrize("rate", [0, 1])
@pytest.mark.parametrize("fields", [{"rates": {"a": 0.5}}, {"rules": (RULE,)}], ids=label)
def test_a_rate_that_does_not_hold_for_all_says_nothing_of_the_model(rate, fields):
    spec = refined(Dare(rate=rate), fields)
    assert canonical_sparsifier(spec) == spec


def test_masked_finetuned_at_rate_1_is_not_the_base():
    spec = MaskedFinetuned(rate=1)
    assert canonical_sparsifier(spec) == spec


def test_an_expert_cannot_be_merged_with_itself():
    with pytest.raises(ValidationError, match="expert a is listed more than once"):
        Recipe(family="f", experts=("a", "a"))


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        (Dare, {"rate": 1.1}, "less than or equal to 1"),
        (Dare, {"rate": 0.5, "rates": {"a": -0.1}}, "greater than or equal to 0"),
        (Dare, {"rate": float("nan")}, "finite number"),
        (Dare, {"rate": 0.5, "seed": -1}, "greater than or equal to 0"),
        (Magnitude, {"rate": 0.5, "arithmetic": "rough"}, "'exact', 'reference' or 'mergekit'"),
        (Della, {"rate": 0.5, "window": 2}, "less than or equal to 1"),
        (Average, {"weights": {"a": -1}}, "greater than or equal to 0"),
        (Average, {"weight": {"a": 1}}, "Extra inputs are not permitted"),
        (TaskArithmetic, {"coefficients": {"a": float("inf")}}, "finite number"),
        (Sce, {"select": 0}, "greater than 0"),
        (Fisher, {"floor": 0}, "greater than 0"),
        (RegMean, {"offdiagonal": 1.5}, "less than or equal to 1"),
        (RegMean, {"ridge": -1}, "greater than or equal to 0"),
        (Breadcrumbs, {"rate": 0.5, "largest": 0.6}, "largest = 0.6 exceeds the rate 0.5"),
        (Breadcrumbs, {"rate": 0.5, "largest": 0.4, "rates": {"a": 0.3}}, "exceeds the rate 0.3"),
        (
            Breadcrumbs,
            {"rate": 0.5, "largest": 0.4, "rules": [{"tensors": "norms", "rate": 0.2}]},
            "lower largest or raise the rate",
        ),
    ],
)
def test_a_value_that_makes_no_sense_is_refused(kind, fields, message):
    with pytest.raises(ValidationError, match=message):
        kind(**fields)


def test_breadcrumbs_may_spare_some_experts_and_tensors():
    spec = Breadcrumbs(rate=0.5, largest=0.4, rates={"a": 0}, rules=(RULE,))
    assert spec.rate_of("a", "w") == spec.rate_of("b", "model.norm.weight") == 0


def test_recipes_are_frozen():
    recipe = Recipe(family="f", experts=("a",))
    with pytest.raises(ValidationError, match="frozen"):
        recipe.family = "g"
