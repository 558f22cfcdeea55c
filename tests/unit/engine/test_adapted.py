"""Adapters in the engine: the same bits for any chunks, threads and device, beside whole models."""

import adapters
import numpy as np
import pytest
import torch
from pydantic import TypeAdapter
from safetensors.torch import load_file, save_file

from mergegrid.api import job_of, merge, run_job
from mergegrid.checkpoints.family import open_family
from mergegrid.engine.chunks import Chunk
from mergegrid.engine.engine import Engine, EngineOptions
from mergegrid.engine.ops.cpu import CpuOperations
from mergegrid.engine.ops.operations import GRAIN
from mergegrid.engine.ops.torch_operations import TorchOperations
from mergegrid.errors import CheckpointError, DamagedError
from mergegrid.merging import MemorySink, MergeJob
from mergegrid.methods import METHODS, AnyMethod
from mergegrid.methods.task_arithmetic import TaskArithmetic
from mergegrid.methods.ties import Ties
from mergegrid.recipes.recipe import Recipe
from mergegrid.sparsifiers import SPARSIFIERS, AnySparsifier
from mergegrid.sparsifiers.dare import Dare
from mergegrid.sparsifiers.none import NoSparsifier

EXPERTS = ("full", "math", "style")
SIZES = {"hidden_size": 256, "intermediate_size": 520, "vocab_size": 300, "num_hidden_layers": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A base in bfloat16 with tensors of several grains; a LoRA, a DoRA and a whole expert."""
    folder = tmp_path_factory.mktemp("adapted")
    torch.manual_seed(0)
    base = adapters.llama(**SIZES)
    base.bfloat16().save_pretrained(folder / "base")
    base = base.float()
    for seed, (name, dora) in enumerate([("math", False), ("style", True)], start=1):
        settings = {"target_modules": adapters.LINEAR, "use_dora": dora, "r": 5}
        adapters.adapt(base, settings, seed=seed).save_pretrained(folder / name)
    full = adapters.adapt(base, {"target_modules": ["q_proj"]}, seed=3).merge_and_unload()
    full.bfloat16().save_pretrained(folder / "full")
    return folder


@pytest.fixture(scope="module")
def family(folder):
    return open_family(folder / "base", {name: folder / name for name in EXPERTS}).aligned


def merged(family, recipe, options):
    engine = Engine(family.base, family.experts, options=options)
    sink = MemorySink(family.base.infos)
    engine.stream([(engine.bind(recipe), sink)])
    return sink.stored


def recipe(sparsifier, method, experts=EXPERTS):
    return Recipe(family="base", experts=experts, sparsifier=sparsifier, method=method)


def same(one, other):
    return one.keys() == other.keys() and all(
        one[name].tobytes() == other[name].tobytes() for name in one
    )


@pytest.mark.parametrize("threads", [1, 2, 7])
@pytest.mark.parametrize("grains", [1, 3, 16])
def test_no_bit_depends_on_threads_or_chunks(family, threads, grains):
    dare_and_ties = recipe(Dare(rate=0.5, seed=1), Ties())
    expected = merged(family, dare_and_ties, EngineOptions())
    assert same(merged(family, dare_and_ties, EngineOptions(threads, grains * GRAIN)), expected)


def test_torch_gives_the_same_bits(family):
    dare_and_ties = recipe(Dare(rate=0.5, seed=1), Ties())
    options = EngineOptions(operations=lambda: TorchOperations("cpu"))
    expected = merged(family, dare_and_ties, EngineOptions())
    assert same(merged(family, dare_and_ties, options), expected)


def points():
    """A sparsifier or method of every kind that needs no model statistics and merges three."""
    methods = [
        kind
        for kind, method in METHODS.items()
        if not method.needs_statistics and (method.expert_count[1] or 3) >= 3
    ]
    rate = {"rate": 0.5}
    for kind in SPARSIFIERS:
        values = {"kind": kind} | (rate if "rate" in SPARSIFIERS[kind].model_fields else {})
        yield pytest.param(values, {"kind": "average"}, id=kind)
    for kind in methods:
        values = {"kind": kind} | (
            {"expert": "math"} if "expert" in METHODS[kind].model_fields else {}
        )
        yield pytest.param({"kind": "dare", "rate": 0.5}, values, id=kind)


@pytest.mark.parametrize(("sparsifier", "method"), list(points()))
def test_every_sparsifier_and_method_merges_adapters(family, sparsifier, method):
    chosen = recipe(
        TypeAdapter(AnySparsifier).validate_python(sparsifier),
        TypeAdapter(AnyMethod).validate_python(method),
    )
    one = merged(family, chosen, EngineOptions(1, GRAIN))
    assert same(merged(family, chosen, EngineOptions(2, 16 * GRAIN)), one)
    base = {name: np.concatenate([family.base[name].reshape(-1)]) for name in family.base}
    assert any(not np.array_equal(one[name], base[name]) for name in one)


def test_a_weight_is_the_base_plus_the_delta(family):
    models = {"": family.base, **family.experts}
    for name in family.base:
        ops = CpuOperations()
        chunk = Chunk(models, name, 0, family.base.infos[name].count, ops)
        for expert in ("math", "style"):
            delta, weight = (
                ops.values(values).copy() for values in (chunk.delta(expert), chunk.weight(expert))
            )
            np.testing.assert_array_equal(weight, family.base[name].reshape(-1) + delta)
            np.testing.assert_array_equal(weight, family.experts[expert][name].reshape(-1))
            assert delta.any() == (family.experts[expert].adapter.entries.get(name) is not None)


def test_a_rate_of_zero_returns_the_expert_and_one_the_base(family):
    for rate, model in ((0.0, family.experts["style"]), (1.0, family.base)):
        alone = recipe(Dare(rate=rate), TaskArithmetic(coefficient=1.0), ("style",))
        engine = Engine(family.base, family.experts)
        checkpoint = engine.checkpoint(alone)
        for name in checkpoint:
            np.testing.assert_array_equal(checkpoint[name], model[name])


def manifest(folder):
    from mergegrid.checkpoints.publish import read_manifest

    return read_manifest(folder)["made_from"]


def test_the_manifest_identifies_an_adapter_by_its_files_and_its_base(folder, tmp_path):
    def digest(adapter, name):
        job = MergeJob(
            folder / "base",
            {"math": adapter},
            {tmp_path / name: recipe(NoSparsifier(), TaskArithmetic(), ("math",))},
        )
        run_job(job, threads=1)
        return manifest(tmp_path / name)["inputs"]["math"]

    first = digest(folder / "math", "first")
    assert any("LoRA adapter" in note for note in manifest(tmp_path / "first")["notes"])
    assert digest(folder / "math", "again") == first
    changed = tmp_path / "changed"
    changed.mkdir()
    for path in (folder / "math").iterdir():
        (changed / path.name).write_bytes(path.read_bytes())
    file = changed / "adapter_model.safetensors"
    tensors = load_file(file)
    next(iter(tensors.values()))[0, 0] += 1
    save_file(tensors, file)
    assert digest(changed, "other") != first


def test_a_damaged_adapter_of_a_study_is_named(folder, tmp_path):
    from mergegrid.study.decoders.importing import import_decoder

    import_decoder(folder / "math", tmp_path / "math", {"source": "path:math"})
    file = tmp_path / "math" / "adapter_model.safetensors"
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    with pytest.raises(DamagedError, match="does not match"):
        merge(folder / "base", {"math": tmp_path / "math"}, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_values_that_are_not_finite_are_found(folder, tmp_path):
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in (folder / "math").iterdir():
        (broken / path.name).write_bytes(path.read_bytes())
    tensors = load_file(broken / "adapter_model.safetensors")
    tensors[min(tensors)][0, 0] = np.inf
    save_file(tensors, broken / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match="expert math holds"):
        merge(folder / "base", {"math": broken}, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_plan_counts_matrices_for_every_thread_and_bytes_of_the_adapter(folder, tmp_path):
    file = tmp_path / "merge.yaml"
    file.write_text(f"base: {folder}/base\nexperts: {{math: {folder}/math}}\n")
    merge = job_of(file, tmp_path / "out").open()
    one, two = (merge.plan(threads=threads) for threads in (1, 2))
    stored = load_file(folder / "math" / "adapter_model.safetensors").values()
    size = sum(tensor.numel() * tensor.element_size() for tensor in stored)
    base = sum(info.bytes for info in merge.engine.base.infos.values())
    assert one.reads == base + size
    # q_proj of rank 5: 256 rows and one tile of 256 columns; the largest is gate_proj.
    assert two.memory - one.memory > 4 * 5 * (520 + 256)
    done = []
    merge.write(done.append)
    assert sum(done) == one.reads
