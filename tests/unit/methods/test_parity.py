"""Parity with the code of arXiv 2311.03099: its arithmetic, written out, from raw models on."""

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from mergegrid.checkpoints.folder import open_checkpoint
from mergegrid.checkpoints.model_statistics import open_statistics
from mergegrid.checkpoints.publish import publish
from mergegrid.engine.engine import Engine
from mergegrid.methods.average import Average
from mergegrid.methods.fisher import Fisher
from mergegrid.methods.regmean import RegMean
from mergegrid.methods.task_arithmetic import TaskArithmetic
from mergegrid.methods.ties import Ties
from mergegrid.sparsifiers.dare import Dare
from mergegrid.sparsifiers.drop_only import DropOnly
from mergegrid.sparsifiers.magnitude import Magnitude
from mergegrid.sparsifiers.masked_finetuned import MaskedFinetuned
from mergegrid.sparsifiers.none import NoSparsifier
from mergegrid.study.encoders.importing import import_base, load_classifier
from mergegrid.study.model_statistics.gather import gather
from mergegrid.study.schema.encoder_jobs import Statistic
from mergegrid.study.schema.tasks import Target
from mergegrid.study.tasks.encoding import encode

NAMES = ("blame", "praise")
COUNT = 64
RATE = 0.6
SPARSIFIERS = [
    NoSparsifier(),
    Dare(rate=RATE, seed=3),
    DropOnly(rate=RATE, seed=3),
    MaskedFinetuned(rate=RATE, seed=3),
    Magnitude(rate=RATE, arithmetic="reference"),
]


@pytest.fixture(scope="module")
def raw_base(raw_encoder, tmp_path_factory):
    """The base as a folder; `base` of this package is arrays."""
    folder = tmp_path_factory.mktemp("parity") / "base"
    import_base(raw_encoder, folder, {})
    return folder


@pytest.fixture(scope="module")
def folders(raw_base, tmp_path_factory):
    """Two experts: the base with deltas, and heads of 2 classes and of 1 number."""
    made = {}
    for seed, (name, outputs) in enumerate(zip(NAMES, (2, 1), strict=True)):
        torch.manual_seed(seed)
        model = load_classifier(raw_base, num_labels=outputs)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.02 * torch.randn_like(parameter)
            model.classifier.weight *= 20
        made[name] = tmp_path_factory.mktemp("parity") / name
        with publish(made[name], {}) as draft:
            model.save_pretrained(draft.path)
            AutoTokenizer.from_pretrained(raw_base).save_pretrained(draft.path)
    return made


@pytest.fixture(scope="module")
def batches(raw_base, examples):
    """The first examples in batches of 16, in order, padded to the longest, with labels."""
    tokenizer = AutoTokenizer.from_pretrained(raw_base)
    some = examples.copy()
    some.loc[::3, "text_a"] = some["text_a"][::3] + " good film good"
    encoded = encode(tokenizer, some[:COUNT], 16)
    return some, [
        (
            dict(tokenizer.pad(encoded[start : start + 16], return_tensors="pt")),
            torch.as_tensor(some["label"][start : start + 16].to_numpy()),
        )
        for start in range(0, COUNT, 16)
    ]


@pytest.fixture(scope="module")
def engine(raw_base, folders, batches, tmp_path_factory):
    """The engine over these models, with statistics that were gathered into files."""
    kinds = ("fisher", "regmean")
    statistics = {kind: {} for kind in kinds}
    for name in NAMES:
        wanted = [Statistic(kind=kind, arithmetic="reference", examples=COUNT) for kind in kinds]
        classes = [0, 1] if name == "blame" else []
        metric = "accuracy" if classes else "pearson"
        target = Target(task=name, metric=metric, classes=classes, max_length=16)
        place = tmp_path_factory.mktemp("parity") / "statistics"
        gather(raw_base, folders[name], target, wanted, batches[0], place)
        for each in wanted:
            statistics[each.kind][name] = open_statistics(place / each.file)
    experts = {name: open_checkpoint(folder) for name, folder in folders.items()}
    return Engine(open_checkpoint(raw_base), experts), statistics


def kth_smallest(values, k):
    return np.sort(values, axis=None)[k - 1]


def sparsified(spec, name, key, base, expert, keeps):
    """The weights of an expert behind a sparsifier; masks are mergegrid's."""
    delta = expert - base
    if spec.kind == "none":
        return expert
    if spec.kind == "magnitude":
        return base + delta * (np.abs(delta) > kth_smallest(np.abs(delta), int(delta.size * RATE)))
    kept = keeps(spec, name, key, delta.shape)
    rescaled = kept if spec.kind == "drop_only" else kept / np.float32(1 - RATE)
    return expert * rescaled if spec.kind == "masked_finetuned" else base + delta * rescaled


def information(folder, batches, names):
    """(1/N) sum over batches of the squared gradient of the whole batch."""
    model = load_classifier(folder).eval()
    sums = {name: np.zeros(model.get_parameter(name).shape) for name in names}
    for inputs, labels in batches:
        model.zero_grad()
        logits = model(**inputs).logits
        if logits.shape[1] == 1:
            loss = ((logits[:, 0] - labels) ** 2).mean()
        else:
            loss = 0
            for row in logits:
                p = row.softmax(0)
                loss = loss + (p.detach().sqrt() * p.log()).sum()
        loss.backward()
        for name in names:
            sums[name] += model.get_parameter(name).grad.double().numpy() ** 2
    return {name: each / COUNT for name, each in sums.items()}


def grams(folder, batches, names):
    """The mean over all tokens, padding too, of x x^T at every linear layer of the body."""
    model = load_classifier(folder).eval()
    seen = {}
    for module_name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and f"{module_name}.weight" in names:
            module.register_forward_hook(
                lambda _, inputs, __, name=f"{module_name}.weight": seen.setdefault(
                    name, []
                ).append(inputs[0].detach().double().reshape(-1, inputs[0].shape[-1]).numpy())
            )
    for inputs, _ in batches:
        model(**inputs)
    tokens = {name: np.concatenate(parts) for name, parts in seen.items()}
    return {name: x.T @ x / len(x) for name, x in tokens.items()}


def average(base, experts):
    return {key: np.mean([each[key] for each in experts.values()], axis=0) for key in base}


def task_arithmetic(base, experts, coefficient):
    return {
        key: base[key] + coefficient * sum(each[key] - base[key] for each in experts.values())
        for key in base
    }


def ties(base, experts, coefficient, rate):
    """On the whole model, flattened; all in float32, where thresholds are compared."""
    flat = {
        name: np.concatenate([(each[key] - base[key]).ravel() for key in base])
        for name, each in experts.items()
    }
    for name, deltas in flat.items():
        sizes = np.abs(deltas)
        flat[name] = deltas * (sizes >= kth_smallest(sizes, int(deltas.size * rate)))
    deltas = np.stack(list(flat.values()))
    signs = np.sign(deltas.sum(axis=0))
    signs[signs == 0] = np.sign(signs.sum())
    agreeing = deltas * (np.sign(deltas) == signs)
    merged = agreeing.sum(axis=0) / np.maximum((agreeing != 0).sum(axis=0), 1)
    ends = np.cumsum([base[key].size for key in base])[:-1]
    parts = zip(base, np.split(merged, ends), strict=True)
    return {key: base[key] + coefficient * part.reshape(base[key].shape) for key, part in parts}


def fisher(base, experts, known, normalize):
    factors = dict.fromkeys(experts, 1.0)
    if normalize:
        norms = {
            name: np.sqrt(sum((f**2).sum() for f in each.values())) for name, each in known.items()
        }
        factors = {name: 1 / (norm + 1e-6) for name, norm in norms.items()}
    return {
        key: sum(factors[n] * (known[n][key] + 1e-6) * experts[n][key] for n in experts)
        / sum(factors[n] * (known[n][key] + 1e-6) for n in experts)
        for key in base
    }


def regmean(base, experts, known, offdiagonal):
    merged = average(base, experts)
    for key in next(iter(known.values())):
        scaled = {
            name: each[key] * np.where(np.eye(len(each[key])), 1, offdiagonal)
            for name, each in known.items()
        }
        products = sum(scaled[name] @ experts[name][key].T for name in experts)
        merged[key] = (np.linalg.inv(sum(scaled.values())) @ products).T
    return merged


CASES = [
    (Average(), lambda base, experts, known: average(base, experts)),
    (
        TaskArithmetic(coefficient=0.7),
        lambda base, experts, known: task_arithmetic(base, experts, 0.7),
    ),
    (
        Ties(coefficient=0.9, trim=0.7, arithmetic="reference"),
        lambda base, experts, known: ties(base, experts, 0.9, 0.7),
    ),
    (
        Fisher(examples=COUNT, arithmetic="reference"),
        lambda base, experts, known: fisher(base, experts, known("fisher"), False),
    ),
    (
        Fisher(examples=COUNT, arithmetic="reference", normalize=True),
        lambda base, experts, known: fisher(base, experts, known("fisher"), True),
    ),
    (
        RegMean(examples=COUNT, arithmetic="reference", offdiagonal=0.7),
        lambda base, experts, known: regmean(base, experts, known("regmean"), 0.7),
    ),
    (
        RegMean(examples=COUNT, arithmetic="reference", offdiagonal=0.8),
        lambda base, experts, known: regmean(base, experts, known("regmean"), 0.8),
    ),
]


@pytest.fixture(scope="module")
def known(raw_base, folders, batches):
    """Statistics by the formulas of the paper's code, from raw models and examples."""
    names = list(open_checkpoint(raw_base))
    made = {
        kind: {name: function(folders[name], batches[1], names) for name in NAMES}
        for kind, function in (("fisher", information), ("regmean", grams))
    }
    return made.__getitem__


@pytest.mark.parametrize("spec", SPARSIFIERS, ids=lambda spec: spec.kind)
@pytest.mark.parametrize(
    ("method", "by_the_paper"), CASES, ids=[str(case[0].kind) for case in CASES]
)
def test_merges_equal_the_arithmetic_of_the_paper(
    engine, known, recipe_of, keeps, spec, method, by_the_paper
):
    ours, statistics = engine
    base = dict(ours.base)
    experts = {
        name: {
            key: sparsified(spec, name, key, base[key], ours.models[name][key], keeps)
            for key in base
        }
        for name in NAMES
    }
    expected = by_the_paper(base, experts, known)
    merged = ours.checkpoint(recipe_of(method, NAMES, spec), statistics.get(method.kind, {}))
    for key in base:
        np.testing.assert_allclose(merged[key], expected[key], rtol=1e-6, atol=1e-6, err_msg=key)
