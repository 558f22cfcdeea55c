"""What a mergekit file says wrongly, or mergegrid cannot do, is an error with line and key."""

from textwrap import dedent

import pytest

from mergegrid.errors import ConfigError
from mergegrid.recipes.mergekit.importing import import_file, is_mergekit

START = """\
merge_method: ties
base_model: base
dtype: float32
parameters: {normalize: true}
models:
  - model: base
  - model: a
    parameters: {weight: 1, density: 0.5}
  - model: b
    parameters: {weight: 1, density: 0.5}
"""
#: By what is wrong: a text of START, what stands in its place, and what the error must say.
CHANGES = {
    "a misspelled key": ("dtype", "dype", "line 3: dype is not a key", "did you mean dtype?"),
    "a parameter outside parameters": (
        "  - model: b\n",
        "  - model: b\n    density: 0.4\n",
        "line 10: models[2].density stands outside `parameters`",
    ),
    "a parameter at the top": (
        "dtype: float32",
        "normalize: true",
        "line 3: normalize stands outside `parameters`",
    ),
    "an unknown parameter": (
        "{normalize: true}",
        "{normalise: true}",
        "line 4: parameters.normalise is not a parameter",
        "did you mean normalize?",
    ),
    "a parameter of all models at one": (
        "{weight: 1, density: 0.5}\n  - model: b",
        "{weight: 1, lambda: 0.5}\n  - model: b",
        "line 8: models[1].parameters.lambda stands at a model",
    ),
    "a parameter of another method": (
        "{normalize: true}",
        "{t: 0.5}",
        "line 4: parameters.t is not used by ties",
        "--ignore-unused",
    ),
    "parameters of the base": (
        "  - model: base\n",
        "  - model: base\n    parameters: {weight: 1}\n",
        "line 7: models[0].parameters.weight of the base is not used by ties",
        "--ignore-unused",
    ),
    "a revision beside the model": (
        "  - model: b\n",
        "  - model: b\n    revision: main\n",
        "line 10: models[2].revision is ignored by mergekit",
    ),
    "no method": ("merge_method: ties\n", "", "merge_method is missing"),
    "an unknown method": (
        "ties",
        "tise",
        "line 1: merge_method = 'tise' is not a method",
        "did you mean ties?",
    ),
    "a method that mergegrid lacks": ("ties", "nearswap", "line 1", "mergegrid has no nearswap"),
    "no base": ("base_model: base\n", "", "base_model is missing, which ties needs"),
    "no weight": (
        "{weight: 1, density: 0.5}\n  -",
        "{density: 0.5}\n  -",
        "line 7",
        "needs weight",
    ),
    "a model twice": (
        "- model: b\n",
        "- model: a\n",
        "line 9: models[2].model: a is listed twice",
    ),
    "a density above 1": ("density: 0.5", "density: 1.5", "line 8", "1.5 is not between 0 and 1"),
    "a text for a number": (
        "density: 0.5",
        "density: half",
        "line 8: models[1].parameters.density = 'half': expected a number",
    ),
    "an empty gradient": ("density: 0.5", "density: []", "line 8", "needs at least one value"),
    "a number for true": (
        "{normalize: true}",
        "{normalize: 0.5}",
        "line 4: parameters.normalize = 0.5: expected true or false",
    ),
    "a condition with another key": (
        "density: 0.5",
        "density: [{pattern: mlp, value: 1}]",
        "line 8: models[1].parameters.density[0].pattern is not a key of a condition",
    ),
    "a condition without a value": (
        "density: 0.5",
        "density: [{filter: mlp}]",
        "line 8: models[1].parameters.density[0]: the condition has no value",
    ),
    "a number among conditions": (
        "density: 0.5",
        "density: [{filter: mlp, value: 1}, 0.5]",
        "line 8: models[1].parameters.density[1] = 0.5 stands among conditions",
    ),
    "weights for some tensors only": (
        "weight: 1",
        "weight: [{filter: mlp, value: 1}]",
        "line 8",
        "weight has no value for tensors that no filter covers",
    ),
    "an unknown dtype": ("float32", "float8", "line 3: dtype = 'float8' is not a dtype"),
    "a dtype that is not written": ("float32", "float64", "line 3", "mergegrid writes float32"),
    "an adapter": ("- model: b\n", "- model: c+lora\n", "line 9", "c+lora has an adapter, and not"),
    "a base with an adapter": (
        "base_model: base",
        "base_model: base+lora",
        "line 2: base_model: base+lora has an adapter",
    ),
    "two revisions": ("- model: b\n", "- model: b@x@y\n", "line 9", "expected a folder, or the id"),
    "models as a mapping": (
        "models:\n  - model: base\n",
        "models:\n  - base\n",
        "line 6",
        "mapping",
    ),
    "both models and slices": ("dtype: float32", "slices: [{}]", "exactly one of models, slices"),
    "a tokenizer of another model": (
        "dtype: float32",
        "tokenizer_source: other",
        "line 3: tokenizer_source = other is not one of the merged models",
    ),
    "two tokenizers": (
        "dtype: float32",
        "tokenizer_source: base\ntokenizer: {source: base}",
        "line 4: tokenizer: tokenizer_source is set, too",
    ),
    "an unknown key of the tokenizer": (
        "dtype: float32",
        "tokenizer: {sorce: base}",
        "line 3: tokenizer.sorce is not a key",
        "did you mean source?",
    ),
    "tokens without a union": (
        "dtype: float32",
        "tokenizer: {source: base, tokens: {x: {source: a}}}",
        "line 3: tokenizer.tokens: mergegrid adds tokens to a union only",
    ),
    "a token of another model": (
        "dtype: float32",
        "tokenizer: {tokens: {x: {source: c}}}",
        "line 3: tokenizer.tokens.x.source = c is not one of the merged models",
    ),
    "a token without a source": (
        "dtype: float32",
        "tokenizer: {tokens: {x: {force: true}}}",
        "line 3: tokenizer.tokens.x: the token has no source",
    ),
    "an unknown kind of source": (
        "dtype: float32",
        "tokenizer: {tokens: {x: {source: {kind: mean}}}}",
        "line 3: tokenizer.tokens.x.source.kind = 'mean': choose model_token or zero",
    ),
    "two tokens for one": (
        "dtype: float32",
        "tokenizer: {tokens: {x: {source: {kind: model_token, model: a, token: y, token_id: 1}}}}",
        "line 3: tokenizer.tokens.x.source: give exactly one of token and token_id",
    ),
    "a template by name": (
        "dtype: float32",
        "chat_template: chatml",
        "line 3",
        "no templates of its own",
    ),
    "experts of a mixture": ("dtype: float32", "gate_mode: hidden", "line 3", "mixture of experts"),
    "rescaled magnitudes": ("{normalize: true}", "{rescale: true}", "line 4", "L1 norm"),
}
SLICES = """\
merge_method: slerp
base_model: a
parameters: {t: 0.5}
slices:
  - sources:
      - {model: a, layer_range: [0, 4]}
      - {model: b, layer_range: [0, 4]}
"""
SECOND = """\
  - sources:
      - {model: a, layer_range: [2, 4]}
      - {model: %s, layer_range: [2, 4]}
"""
END = "      - {model: b, layer_range: [0, 4]}\n"
CHANGED_SLICES = {
    "of other models": (END, f"{END}{SECOND % 'c'}", "line 8: slices[1].sources: other models"),
    "with parameters of their own": (
        END,
        f"{END}{SECOND % 'b'}    parameters: {{t: 0.3}}\n",
        "line 8: slices[1]: slices have different parameters",
    ),
    "with a gradient": (
        "{t: 0.5}\nslices:\n",
        "{t: [0, 1]}\nslices:\n" + (SECOND % "b"),
        "line 3: parameters.t: a gradient within each of several slices",
    ),
    "of two lengths": (
        "b, layer_range: [0, 4]",
        "b, layer_range: [0, 3]",
        "line 5: slices[0].sources: ranges of 3 and 4 layers",
    ),
    "passed with two models": ("slerp", "passthrough", "line 3", "t is not used by passthrough"),
    "backwards": (
        "a, layer_range: [0, 4]",
        "a, layer_range: [4, 0]",
        "line 6: slices[0].sources[0].layer_range = [4, 0]: expected the first layer",
    ),
    "without a range": ("a, layer_range: [0, 4]", "a", "line 6", "layer_range = None"),
    "a key of sources": (
        "a, layer_range: [0, 4]",
        "a, layers: [0, 4]",
        "line 6: slices[0].sources[0].layers is not a key",
    ),
    "t at a source": (
        "a, layer_range: [0, 4]",
        "a, layer_range: [0, 4], parameters: {t: 0.3}",
        "line 6: slices[0].sources[0].parameters.t stands at a model",
    ),
    "t above 1": ("t: 0.5", "t: [0, 1.5]", "line 3: parameters.t: 1.5 is not between 0 and 1"),
    "without the base": ("base_model: a", "base_model: c", "line 5", "add c"),
}


PASSED = """\
merge_method: passthrough
slices:
  - sources: [{model: a, layer_range: [0, 4]}]
  - sources: [{model: b, layer_range: [2, 4]}]
"""
CHANGED_PASSED = {
    "two models in a slice": (
        "[{model: b,",
        "[{model: a, layer_range: [2, 4]}, {model: b,",
        "line 4: slices[1]: passthrough takes one model for a slice, not 2",
    ),
    "a scale": (
        "range: [2, 4]",
        "range: [2, 4], parameters: {scale: 0.5}",
        "line 4: slices[1].sources[0].parameters.scale: mergegrid passes layers as they are",
    ),
    "another base": (
        "slices:\n  - sources: [{model: a, layer_range: [0, 4]}]\n"
        "  - sources: [{model: b, layer_range: [2, 4]}]\n",
        "models: [{model: a}]\nbase_model: base\n",
        "line 3: base_model is another model",
    ),
}


def refusal(folder, text):
    path = folder / "config.yml"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        is_mergekit(path) and import_file(path)
    return str(error.value)


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_wrong_file_is_refused_with_line_and_key(tmp_path, change):
    old, new, *says = change
    assert old in START
    message = refusal(tmp_path, START.replace(old, new, 1))
    assert message.startswith(f"{tmp_path / 'config.yml'}, line ")
    assert "\n" not in message
    assert all(part in message for part in says), message


@pytest.mark.parametrize("change", CHANGED_SLICES.values(), ids=CHANGED_SLICES)
def test_a_wrong_slice_is_refused_with_line_and_key(tmp_path, change):
    old, new, *says = change
    assert old in SLICES
    message = refusal(tmp_path, SLICES.replace(old, new, 1))
    assert message.startswith(f"{tmp_path / 'config.yml'}, line ")
    assert all(part in message for part in says), message


@pytest.mark.parametrize("change", CHANGED_PASSED.values(), ids=CHANGED_PASSED)
def test_wrong_passed_layers_are_refused_with_line_and_key(tmp_path, change):
    old, new, says = change
    assert old in PASSED
    message = refusal(tmp_path, PASSED.replace(old, new, 1))
    assert message.startswith(f"{tmp_path / 'config.yml'}, {says}"), message


def test_several_documents_are_refused(tmp_path):
    message = refusal(tmp_path, f"name: one\n{START}---\n{START}")
    assert "config.yml, line 13: a second YAML document, as for mergekit-multi" in message


def test_keys_of_both_languages_are_refused(tmp_path):
    message = refusal(tmp_path, f"{START}experts: {{a: a}}\n")
    assert "merge_method (line 1) is a key of mergekit and experts (line 11) one of merg" in message


@pytest.mark.parametrize("text", ["base: b\nexperts: {a: a}\n", "base: b\ndtype: float32\n", "{}"])
def test_merge_files_are_not_taken_for_mergekit_s(tmp_path, text):
    path = tmp_path / "merge.yaml"
    path.write_text(dedent(text))
    assert not is_mergekit(path)
