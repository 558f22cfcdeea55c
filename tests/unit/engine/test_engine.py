"""Nothing but recipe and inputs decides the bytes of a merged model."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from mergegrid.checkpoints.checkpoint import TensorInfo
from mergegrid.checkpoints.digests import TensorDigests, checkpoint_digest, digest_tensors
from mergegrid.checkpoints.dtypes import DTYPES
from mergegrid.checkpoints.folder import open_checkpoint
from mergegrid.checkpoints.writer import ShardWriter
from mergegrid.engine.engine import Engine, EngineOptions
from mergegrid.engine.ops.operations import GRAIN
from mergegrid.errors import CheckpointError
from mergegrid.methods.average import Average
from mergegrid.methods.fisher import Fisher
from mergegrid.methods.model_stock import ModelStock
from mergegrid.methods.regmean import RegMean
from mergegrid.methods.sce import Sce
from mergegrid.methods.slerp import Slerp
from mergegrid.methods.task_arithmetic import TaskArithmetic
from mergegrid.methods.ties import Ties
from mergegrid.recipes.recipe import Recipe
from mergegrid.sparsifiers.breadcrumbs import Breadcrumbs
from mergegrid.sparsifiers.dare import Dare
from mergegrid.sparsifiers.della import Della
from mergegrid.sparsifiers.drop_only import DropOnly
from mergegrid.sparsifiers.magnitude import Magnitude
from mergegrid.sparsifiers.masked_finetuned import MaskedFinetuned
from mergegrid.sparsifiers.none import NoSparsifier
from mergegrid.sparsifiers.rates import Rule

#: Several runs of GRAIN elements each, and none a multiple of it; rows of 96 fit three grains.
SHAPES = {
    "embed_tokens.weight": (300, 1001),
    "layers.0.mlp.weight": (5000, 96),
    "layers.0.norm.weight": (64,),
    "layers.1.mlp.bias": (150_001,),
    "lm_head.weight": (3, 5, 7),
}
NAMES = ("chat", "code", "math")
RATES = {"chat": 0.3, "math": 0.9}
RULES = (Rule(tensors="norms", rate=0), Rule(tensors="layers 1", rate=0.7))


def recipe(method=None, sparsifier=None, names=NAMES):
    return Recipe(
        family="toy",
        experts=names,
        method=method or Average(),
        sparsifier=sparsifier or NoSparsifier(),
    )


RECIPES = {
    "average": recipe(Average(weights={"chat": 3, "math": 0.5}), Dare(rate=0.5, rates=RATES)),
    "task_arithmetic": recipe(
        TaskArithmetic(coefficient=0.7, coefficients={"chat": -1, "math": 2}),
        Dare(rate=0.9, rates=RATES, rules=RULES),
    ),
    "drop_only": recipe(TaskArithmetic(coefficient=0.5), DropOnly(rate=0.5, seed=3)),
    "masked": recipe(Average(), MaskedFinetuned(rate=0.1, rates=RATES)),
    "magnitude": recipe(TaskArithmetic(), Magnitude(rate=0.8, rescale=True, rules=RULES)),
    "magnitude_global": recipe(Average(), Magnitude(rate=0.8, scope="global", rates=RATES)),
    "della": recipe(TaskArithmetic(), Della(rate=0.6, window=0.2, rates=RATES)),
    "breadcrumbs": recipe(Average(), Breadcrumbs(rate=0.6, largest=0.05)),
    "breadcrumbs_global": recipe(Average(), Breadcrumbs(rate=0.6, scope="global", rules=RULES)),
    "ties": recipe(Ties(trim=0.7, coefficient=0.5)),
    "ties_per_tensor": recipe(Ties(trim=0.7, scope="per_tensor"), Dare(rate=0.5)),
    "ties_reference": recipe(Ties(trim=0.7, arithmetic="reference"), Dare(rate=0.5)),
    "slerp": recipe(Slerp(weights={"math": 3}), Dare(rate=0.5), ("chat", "math")),
    "model_stock": recipe(ModelStock()),
    "sce": recipe(Sce(select=0.3)),
    "fisher": recipe(Fisher(normalize=True, weights={"math": 2}), Dare(rate=0.1)),
    "regmean": recipe(RegMean(offdiagonal=0.8)),
}


def reversed_mapping(values):
    return dict(reversed(values.items()))


def listed_backwards(each):
    """The same recipe with its experts, rates, weights and coefficients in another order."""
    fields = ("rates", "weights", "coefficients")
    parts = {
        part: spec.model_copy(
            update={f: reversed_mapping(getattr(spec, f)) for f in fields if hasattr(spec, f)}
        )
        for part, spec in (("sparsifier", each.sparsifier), ("method", each.method))
    }
    return each.model_copy(update={"experts": tuple(reversed(each.experts)), **parts})


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Base and experts in bfloat16, each in one file; statistics in float32."""
    root = tmp_path_factory.mktemp("models")
    random = np.random.default_rng(0)
    base = {name: random.standard_normal(shape) * 0.02 for name, shape in SHAPES.items()}
    for who in ("base", *NAMES):
        tensors, fisher = {}, {}
        for name, values in base.items():
            change = (who != "base") * random.standard_normal(values.shape) * 0.002
            tensors[name] = torch.from_numpy(values + change).bfloat16()
            fisher[name] = torch.from_numpy(random.standard_normal(values.shape) ** 2).float()
        inputs = torch.from_numpy(random.standard_normal((500, 96))).float()
        (root / who).mkdir()
        save_file(tensors, root / who / "model.safetensors")
        for kind, statistics in (
            ("fisher", fisher),
            ("regmean", {"layers.0.mlp.weight": inputs.T @ inputs}),
        ):
            (root / f"{kind}_{who}").mkdir()
            save_file(statistics, root / f"{kind}_{who}" / "model.safetensors")
    return root


def engine_of(root, kind=None, options=None, names=NAMES, folder="{}"):
    experts = {name: open_checkpoint(root / folder.format(name)) for name in names}
    statistics = {name: open_checkpoint(root / f"{kind}_{name}") for name in names} if kind else {}
    base = open_checkpoint(root / folder.format("base"))
    return Engine(base, experts, statistics, options)


def write(engine, recipes, out, dtype="bfloat16", shard_size=1 << 40):
    """Digest and bytes of every recipe's model, merged in one pass."""
    infos = {n: TensorInfo(i.shape, DTYPES[dtype]) for n, i in engine.base.infos.items()}
    writers = {}
    for name in recipes:
        (out / name).mkdir(parents=True)
        writers[name] = ShardWriter(out / name, infos, shard_size)
        writers[name].open()
    engine.stream([(engine.bind(recipes[name]), writer) for name, writer in writers.items()])
    results = {}
    for name, writer in writers.items():
        writer.close()
        parts = [(out / name / file).read_bytes() for file in writer.files]
        results[name] = checkpoint_digest(writer.tensors()), b"".join(parts)
    return results


def merged(root, out, recipes=RECIPES, **options):
    """What `write` gives for all recipes: those with statistics in passes of their own."""
    arguments = {key: options.pop(key) for key in ("dtype", "shard_size") if key in options}
    plain = {
        k: each for k, each in recipes.items() if each.method.kind not in ("fisher", "regmean")
    }
    results = write(engine_of(root, **options), plain, out, **arguments) if plain else {}
    for kind in recipes.keys() - plain.keys():
        results |= write(engine_of(root, kind, **options), {kind: recipes[kind]}, out, **arguments)
    return results


@pytest.fixture(scope="module")
def alone(folders, tmp_path_factory):
    """Every recipe merged in a pass of its own, by one thread."""
    root = tmp_path_factory.mktemp("alone")
    return {name: merged(folders, root, {name: each})[name] for name, each in RECIPES.items()}


def test_recipes_of_these_tests_give_different_models(alone):
    assert len({digest for digest, _ in alone.values()}) == len(RECIPES)


def test_several_recipes_in_one_pass_are_what_each_is_alone(folders, alone, tmp_path):
    assert merged(folders, tmp_path) == alone


def test_two_runs_give_the_same_bytes(folders, alone, tmp_path):
    for number in range(2):
        again = merged(folders, tmp_path / str(number), options=EngineOptions(threads=2))
        assert again == alone


@pytest.mark.parametrize("threads", [2, 7])
def test_the_number_of_threads_changes_no_bit(folders, alone, tmp_path, threads):
    assert merged(folders, tmp_path, options=EngineOptions(threads=threads)) == alone


@pytest.mark.parametrize("grains", [1, 3, 8])
def test_the_length_of_runs_changes_no_bit(folders, alone, tmp_path, grains):
    settings = EngineOptions(threads=2, chunk_size=grains * GRAIN)
    assert merged(folders, tmp_path, options=settings) == alone


def test_the_order_of_experts_rates_weights_and_coefficients_changes_no_bit(
    folders, alone, tmp_path
):
    backwards = {name: listed_backwards(each) for name, each in reversed(RECIPES.items())}
    assert merged(folders, tmp_path, backwards, names=NAMES[::-1]) == alone


def test_experts_that_a_recipe_does_not_name_change_no_bit(folders, alone, tmp_path):
    pair = {"slerp": RECIPES["slerp"]}
    assert merged(folders, tmp_path, pair, names=("chat", "math"))["slerp"] == alone["slerp"]


def test_inputs_in_five_shards_give_the_same_bytes(folders, alone, tmp_path):
    for who in ("base", *NAMES):
        tensors = load_file(folders / who / "model.safetensors")
        shard_of = {name: f"model-{n}-of-5.safetensors" for n, name in enumerate(tensors)}
        (folders / f"sharded-{who}").mkdir()
        for name, file in shard_of.items():
            save_file({name: tensors[name]}, folders / f"sharded-{who}" / file)
        index = folders / f"sharded-{who}" / "model.safetensors.index.json"
        index.write_text(json.dumps({"weight_map": shard_of}))
    assert len(set(shard_of.values())) == 5
    assert merged(folders, tmp_path, folder="sharded-{}") == alone


def test_the_digest_does_not_depend_on_how_the_output_is_cut_into_shards(folders, alone, tmp_path):
    one = {"average": RECIPES["average"]}
    cut = merged(folders, tmp_path, one, shard_size=700_000)["average"]
    assert len(list((tmp_path / "average").glob("*.safetensors"))) == 3
    assert cut[0] == alone["average"][0]
    assert checkpoint_digest(digest_tensors(open_checkpoint(tmp_path / "average"))) == cut[0]


def test_pythonhashseed_changes_no_bit(folders, alone, tmp_path):
    program = """
import sys
from pathlib import Path
from mergegrid.checkpoints.digests import checkpoint_digest
from mergegrid.checkpoints.folder import open_checkpoint
from mergegrid.checkpoints.writer import ShardWriter
from mergegrid.engine.engine import Engine, EngineOptions
from mergegrid.recipes.recipe import Recipe

root, out = Path(sys.argv[1]), Path(sys.argv[2])
experts = {name: open_checkpoint(root / name) for name in set(sys.argv[3].split(","))}
engine = Engine(open_checkpoint(root / "base"), experts, options=EngineOptions(threads=2))
outputs = []
for number, text in enumerate(sys.argv[4:]):
    (out / str(number)).mkdir(parents=True)
    writer = ShardWriter(out / str(number), engine.base.infos, 1 << 40)
    writer.open()
    outputs.append((engine.bind(Recipe.model_validate_json(text)), writer))
engine.stream(outputs)
for _, writer in outputs:
    print(checkpoint_digest(writer.tensors()))
"""
    names = ["task_arithmetic", "magnitude_global", "ties", "model_stock"]
    texts = [RECIPES[name].model_dump_json() for name in names]
    printed = {
        subprocess.run(
            [sys.executable, "-c", program, folders, tmp_path / seed, ",".join(NAMES), *texts],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1", "1234")
    }
    assert printed == {"".join(f"{alone[name][0]}\n" for name in names)}


@pytest.mark.parametrize("name", [n for n in RECIPES if n not in ("fisher", "regmean")])
def test_a_merged_checkpoint_is_what_is_written_in_float32(folders, tmp_path, name):
    each = RECIPES[name]
    write(engine_of(folders), {name: each}, tmp_path, "float32")
    written = load_file(tmp_path / name / "model.safetensors")
    checkpoint = engine_of(folders, options=EngineOptions(chunk_size=GRAIN)).checkpoint(each)
    assert list(checkpoint) == sorted(SHAPES)
    assert {n: i.shape for n, i in checkpoint.infos.items()} == dict(sorted(SHAPES.items()))
    for tensor in checkpoint:
        assert np.array_equal(checkpoint[tensor], written[tensor].numpy())


def test_a_merged_checkpoint_can_be_read_run_by_run_in_any_order(folders):
    checkpoint = engine_of(folders).checkpoint(RECIPES["ties"])
    name, count = "layers.1.mlp.bias", 150_001
    whole = checkpoint[name]
    room = np.empty(0, np.float32)
    for start, stop in [(2 * GRAIN, count), (0, 10), (GRAIN, 2 * GRAIN)]:
        part = np.array(checkpoint.read(name, start, stop, room))
        assert np.array_equal(part, whole[start:stop])


def test_merged_checkpoints_of_one_engine_do_not_disturb_each_other(folders):
    engine = engine_of(folders)
    names = ["ties", "magnitude", "della"]
    together = [engine.checkpoint(RECIPES[name]) for name in names]
    for tensor in ("layers.0.mlp.weight", "layers.0.norm.weight"):
        found = [checkpoint[tensor] for checkpoint in together]
        expected = [engine_of(folders).checkpoint(RECIPES[name])[tensor] for name in names]
        assert all(np.array_equal(*pair) for pair in zip(found, expected, strict=True))


def test_a_merged_checkpoint_can_be_merged_again(folders, stream):
    engine = engine_of(folders)
    first = engine.checkpoint(RECIPES["task_arithmetic"])
    held = {name: np.array(first[name]) for name in first}
    again = Engine(engine.base, {"merged": first, "math": engine.models["math"]})
    (result,) = stream(again, [recipe(names=("math", "merged"))])
    for name in held:
        expected = (held[name].astype(np.float64) + engine.models["math"][name]) / 2
        assert np.array_equal(result[name], expected.astype(np.float32))


@pytest.mark.parametrize("threads", [1, 3])
def test_the_witness_is_told_of_every_element_of_every_model_once(folders, stream, threads):
    engine = engine_of(folders, options=EngineOptions(threads=threads))
    told = {name: TensorDigests(model.infos) for name, model in engine.models.items()}
    seen = dict.fromkeys(told, 0)

    def on_read(model, name, start, stored):
        told[model].add(name, start, stored)
        seen[model] += stored.size

    class Nowhere:
        infos = engine.base.infos

        def write(self, name, start, stored):
            """Leave it."""

    recipes = [RECIPES[name] for name in ("average", "ties", "sce", "magnitude_global")]
    engine.stream([(engine.bind(each), Nowhere()) for each in recipes], on_read)
    count = sum(int(np.prod(shape)) for shape in SHAPES.values())
    assert seen == dict.fromkeys(told, count)
    for name, model in engine.models.items():
        assert told[name].tensors() == digest_tensors(model)


def test_what_an_expert_has_beyond_the_base_is_not_merged(merge, base, experts):
    with_head = {"math": experts["math"] | {"classifier.weight": np.ones((2, 8))}}
    merged = merge(base, with_head)
    assert list(merged) == sorted(base)


def test_an_error_of_a_sink_stops_the_pass(folders):
    class Full:
        infos = open_checkpoint(folders / "base").infos

        def write(self, name, start, stored):
            raise CheckpointError("no room")

    engine = engine_of(folders, options=EngineOptions(threads=3))
    with pytest.raises(CheckpointError, match="no room"):
        engine.stream([(engine.bind(RECIPES["average"]), Full())])
