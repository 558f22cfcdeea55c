from dataclasses import replace

import pytest

from mergegrid.checkpoints.folder import open_checkpoint
from mergegrid.engine.engine import Engine
from mergegrid.errors import ConfigError
from mergegrid.methods.average import Average
from mergegrid.methods.emr import Emr
from mergegrid.methods.task_arithmetic import TaskArithmetic
from mergegrid.methods.ties import Ties
from mergegrid.recipes.recipe import Recipe, base_only
from mergegrid.sparsifiers.dare import Dare
from mergegrid.sparsifiers.drop_only import DropOnly
from mergegrid.sparsifiers.magnitude import Magnitude
from mergegrid.sparsifiers.masked_finetuned import MaskedFinetuned
from mergegrid.sparsifiers.none import NoSparsifier
from mergegrid.stages import library_versions
from mergegrid.study.encoders import evaluator as evaluator_module
from mergegrid.study.encoders import task_scorer
from mergegrid.study.encoders.evaluator import EncoderEvaluator, EvaluatedExpert
from mergegrid.study.encoders.importing import load_classifier
from mergegrid.study.encoders.merges import merges
from mergegrid.study.encoders.store import ScoreStore
from mergegrid.study.encoders.sweep import sweep
from mergegrid.study.encoders.task_scorer import TaskScorer
from mergegrid.study.schema.encoder_jobs import MergesRequest
from mergegrid.study.scoring.scores import COLUMNS
from mergegrid.study.tasks.encoding import encode


@pytest.fixture
def target(request_for_praise):
    return request_for_praise.target


@pytest.fixture
def make_evaluator(base, expert, examples, target, tmp_path):
    """Makes a new evaluator on the same store, as every job does."""

    def make(names=("praise",)):
        experts = {name: EvaluatedExpert(expert, target, examples) for name in names}
        return EncoderEvaluator(base, experts, ScoreStore(tmp_path / "store.jsonl"))

    return make


@pytest.fixture
def measured(monkeypatch):
    """The splits that are measured rather than read from the store, in order."""
    splits = []
    predict = TaskScorer.predict

    def counted(self, checkpoint, split, rows=None):
        splits.append(split)
        return predict(self, checkpoint, split, rows)

    monkeypatch.setattr(TaskScorer, "predict", counted)
    return splits


def test_scores_of_two_kinds_of_gpu_are_not_mixed(
    base, expert, examples, target, tmp_path, monkeypatch
):
    experts = {"praise": EvaluatedExpert(expert, target, examples)}
    digests = set()
    for model in ("NVIDIA A100-SXM4-40GB", "NVIDIA H100 80GB HBM3", None):
        device = "cuda" if model else "cpu"
        monkeypatch.setattr(
            evaluator_module, "hardware_name", lambda device, model=model: model or device
        )
        evaluator = EncoderEvaluator(base, experts, ScoreStore(tmp_path / "store.jsonl"), device)
        digests.add(evaluator.inputs_digest(Recipe(family="tiny", experts=("praise",))))
    assert len(digests) == 3


def recipes(*sparsifiers):
    return [
        Recipe(family="tiny", experts=("praise",), sparsifier=sparsifier)
        for sparsifier in sparsifiers
    ]


def test_the_expert_as_it_is_scores_as_its_own_checkpoint_does(
    make_evaluator, expert, target, examples
):
    (recipe,) = recipes(NoSparsifier())
    score = make_evaluator().scores(recipe, "test")["praise"]
    state = dict(load_classifier(expert).state_dict())
    alone = TaskScorer(expert, target, examples, "cpu").measure(state, "test")
    assert replace(score, libraries={}) == alone
    assert score.libraries == library_versions("finetune_encoder", "merge", "evaluate_encoder")
    assert score.value == 1.0
    assert score.n == 24


def test_the_base_under_the_experts_head_knows_nothing(make_evaluator):
    (recipe,) = recipes(base_only())
    assert make_evaluator().scores(recipe, "test")["praise"].value < 0.8


def test_tensors_of_the_tasks_own_expert_are_not_those_of_the_merge(
    base, expert, examples, target, tmp_path
):
    """With all own, any recipe scores as the expert; with some, as a model made by hand."""
    (recipe,) = recipes(base_only())
    scores = {}
    for unmerged in ([], ["*.weight"], ["*"]):
        evaluated = EvaluatedExpert(
            expert, target.model_copy(update={"unmerged": unmerged}), examples
        )
        evaluator = EncoderEvaluator(base, {"praise": evaluated}, ScoreStore(tmp_path / "store"))
        # Stored scores of the other patterns do not count.
        assert evaluator.missing([recipe], "test") == 1
        scores[" ".join(unmerged)] = evaluator.scores(recipe, "test")["praise"].predictions
    state, tuned = dict(open_checkpoint(base).items()), load_classifier(expert).state_dict()
    mixed = {name: tuned[name] if name.endswith(".weight") else state[name] for name in state}
    scorer = TaskScorer(expert, target, examples, "cpu")
    assert scores["*.weight"] == scorer.measure(mixed, "test").predictions
    assert scores["*"] == scorer.measure(tuned, "test").predictions
    assert scores[""] not in (scores["*.weight"], scores["*"])


def test_own_tensors_that_the_model_lacks_are_an_error(expert, target, examples):
    wrong = target.model_copy(update={"unmerged": ["*.biases"]})
    with pytest.raises(ConfigError, match=r"unmerged: '\*\.biases' covers none of the \d+ tensors"):
        TaskScorer(expert, wrong, examples, "cpu")


def test_what_was_scored_with_the_same_inputs_is_not_scored_again(make_evaluator, measured):
    for _ in range(2):
        one, two = recipes(Dare(rate=0.5), Dare(rate=0.9))
        make_evaluator().scores(one, "test")
    assert measured == ["test"]
    assert make_evaluator().missing([one, two], "test") == 1
    make_evaluator().scores(two, "test")
    assert measured == ["test", "test"]


def test_only_examples_of_splits_that_are_scored_are_encoded(expert, target, examples, monkeypatch):
    encoded = []

    def recorded(tokenizer, part, max_length):
        encoded.append(set(part["split"]))
        return encode(tokenizer, part, max_length)

    monkeypatch.setattr(task_scorer, "encode", recorded)
    scorer = TaskScorer(expert, target, examples, "cpu")
    for _ in range(2):
        scorer.measure(open_checkpoint(expert), "test")
    assert encoded == [{"test"}]


@pytest.mark.parametrize("stage", ["merge", "evaluate_encoder"])
def test_another_stage_version_or_split_is_scored_again(
    make_evaluator, measured, raise_version, stage
):
    (recipe,) = recipes(Dare(rate=0.5))
    make_evaluator().scores(recipe, "test")
    make_evaluator().scores(recipe, "validation")
    raise_version(stage)
    make_evaluator().scores(recipe, "test")
    assert measured == ["test", "validation", "test"]


def test_another_library_version_is_recorded_and_scores_nothing_again(
    make_evaluator, measured, monkeypatch
):
    one, two = recipes(Dare(rate=0.5), Dare(rate=0.9))
    before = make_evaluator().scores(one, "test")["praise"]
    monkeypatch.setattr(evaluator_module, "library_versions", lambda *_: {"torch": ("99.0",)})
    assert make_evaluator().scores(one, "test")["praise"].value == before.value
    versions = make_evaluator().scores(two, "test")["praise"].libraries["torch"]
    assert "99.0" in versions
    assert before.libraries["torch"][0] in versions
    assert measured == ["test", "test"]


def test_the_evaluator_merges_to_the_bit_as_the_engine_does(make_evaluator, base, expert):
    names = ("praise", "blame")
    evaluator = make_evaluator(names=names)
    experts_on_disk = dict.fromkeys(names, open_checkpoint(expert))
    magnitude = Magnitude(rate=0.5, scope="global")
    sparsifiers = [NoSparsifier(), Dare(rate=0.5), magnitude, NoSparsifier(), Dare(rate=0.5)]
    for sparsifier in sparsifiers:
        for method in (Average(), TaskArithmetic(coefficient=0.5), Ties(trim=0.5)):
            for experts in (names, names[:1]):
                recipe = Recipe(
                    family="tiny", experts=experts, sparsifier=sparsifier, method=method
                )
                # A new engine per recipe knows no pre-pass results of another one.
                expected = Engine(open_checkpoint(base), experts_on_disk).checkpoint(recipe)
                merged = evaluator._merge(recipe)
                assert all((merged[name] == expected[name]).all() for name in expected)


def test_each_head_is_scored_with_the_model_of_its_expert(make_evaluator, monkeypatch):
    merged, merge = [], EncoderEvaluator._merge

    def recorded(self, recipe):
        merged.append(recipe.method.expert)
        return merge(self, recipe)

    monkeypatch.setattr(EncoderEvaluator, "_merge", recorded)
    evaluator = make_evaluator(names=("praise", "blame"))
    recipe = Recipe(family="tiny", experts=("praise", "blame"), method=Emr())
    assert set(evaluator.scores(recipe, "test")) == {"praise", "blame"}
    assert sorted(merged) == ["blame", "praise"]
    merged.clear()
    named = recipe.model_copy(update={"method": Emr(expert="blame")})
    evaluator.scores(named, "test")
    assert merged == ["blame"]


def test_prepass_results_of_another_sparsifier_are_dropped(make_evaluator):
    evaluator = make_evaluator(names=("praise", "blame"))

    def known(sparsifier, trim):
        recipe = Recipe(
            family="tiny",
            experts=("praise", "blame"),
            sparsifier=sparsifier,
            method=Ties(trim=trim),
        )
        evaluator.scores(recipe, "test")
        return len(evaluator._engine.results)

    first = known(Magnitude(rate=0.5), 0.8)
    assert known(Magnitude(rate=0.5), 0.7) > first > 0
    assert known(Magnitude(rate=0.6), 0.8) == first


def test_a_model_that_breaks_down_scores_as_if_it_answered_0(
    make_evaluator, expert, target, examples
):
    broken = {
        name: tensor * float("nan") for name, tensor in load_classifier(expert).state_dict().items()
    }
    scorer = TaskScorer(expert, target, examples, "cpu")
    assert scorer.measure(broken, "test").value == 0.5


def test_a_sweep_scores_every_recipe_once_in_the_documented_columns(
    make_evaluator, target, measured
):
    swept = recipes(NoSparsifier(), base_only(), Dare(rate=0.5), DropOnly(rate=0.5, seed=1))
    frame, _ = sweep(target, swept, make_evaluator())
    assert list(frame.columns) == list(COLUMNS)
    assert frame["recipe_digest"].tolist() == [recipe.digest for recipe in swept]
    assert frame["split"].eq("test").all()
    assert frame["selected"].all()
    assert frame["rate"].tolist() == [0, 1, 0.5, 0.5]
    assert frame["mask_seed"].isna().tolist() == [True, False, False, False]
    assert len(measured) == 4


@pytest.fixture
def request_for_merges(target):
    return MergesRequest(
        family="tiny",
        experts=["praise", "blame"],
        training_seed=0,
        targets=[target, target.model_copy(update={"task": "blame"})],
        methods=[[Average()], [TaskArithmetic(coefficient=c) for c in (-1.0, 0.5, 0.25)]],
        sparsifiers=[[NoSparsifier()], [Dare(rate=0.5, seed=seed) for seed in (0, 1)]],
        selection="validation",
    )


def test_candidates_are_compared_on_validation_and_only_the_chosen_is_tested(
    make_evaluator, request_for_merges, measured
):
    frame, _ = merges(request_for_merges, make_evaluator(names=("praise", "blame")))
    arithmetic = frame[frame["method"] == "task_arithmetic"]
    compared = arithmetic[arithmetic["split"] == "validation"]
    tested = arithmetic[arithmetic["split"] == "test"]
    assert compared["recipe_digest"].nunique() == 3
    means = compared.groupby("settings")["value"].mean()
    assert set(tested["settings"]) == {means.idxmax()}
    assert set(tested["sparsifier"]) == {"none", "dare"}
    assert tested["selected"].all()
    assert set(compared[compared["selected"]]["settings"]) == {means.idxmax()}
    # A method with one candidate has nothing to compare.
    assert set(frame[frame["method"] == "average"]["split"]) == {"test"}
    # Three candidates on validation, two methods with three recipes on test, two tasks each.
    assert measured.count("validation") == 3 * 2
    assert measured.count("test") == 2 * 3 * 2


def test_the_paper_is_replayed_by_comparing_on_the_test_split(
    make_evaluator, request_for_merges, measured
):
    replay = request_for_merges.model_copy(update={"selection": "test"})
    frame, _ = merges(replay, make_evaluator(names=("praise", "blame")))
    assert set(frame["split"]) == {"test"}
    assert set(frame["selection"]) == {"test"}
    assert "validation" not in measured
    assert (~frame["selected"]).sum() == 2 * 2


def test_mask_seeds_are_averaged_and_not_chosen_among(make_evaluator, request_for_merges):
    masked = [
        MaskedFinetuned(rate=0.1, seed=seed, rescale=rescale)
        for seed in (0, 1)
        for rescale in (True, False)
    ]
    request = request_for_merges.model_copy(
        update={"methods": [[Average()]], "sparsifiers": [masked]}
    )
    frame, _ = merges(request, make_evaluator(names=("praise", "blame")))
    chosen = frame[frame["split"] == "test"]
    assert chosen["settings"].nunique() == 1
    assert sorted(chosen["mask_seed"].unique()) == [0, 1]


def test_the_first_of_equal_candidates_is_chosen(make_evaluator, request_for_merges):
    equal = request_for_merges.model_copy(
        update={"methods": [[TaskArithmetic(coefficient=c) for c in (0.5, 0.50001, 0.49999)]]}
    )
    frame, _ = merges(equal, make_evaluator(names=("praise", "blame")))
    chosen = frame[frame["selected"] & (frame["split"] == "test")]
    assert chosen["settings"].unique().tolist() == [
        '{"method":{"coefficient":0.5},"sparsifier":{}}'
    ]
