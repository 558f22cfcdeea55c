"""Golden numbers of fetching and importing models, and of the sizes of deltas."""

import shutil
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from transformers import BertModel

from golden import inputs
from golden.recorded import ARITHMETIC, Numbers
from mergegrid.checkpoints.digests import digest_tensors
from mergegrid.checkpoints.folder import open_checkpoint
from mergegrid.checkpoints.location import read_json
from mergegrid.checkpoints.sources.fetch import fetch as fetch_source
from mergegrid.checkpoints.sources.source import SourceConfig
from mergegrid.delta_reports.report import expert_delta_sizes, measure
from mergegrid.study.decoders.importing import import_decoder as publish_decoder
from mergegrid.study.encoders.importing import import_base, import_expert
from mergegrid.study.schema.encoder_jobs import FinetuneRequest

_CONFIG = ("architectures", "dtype", "id2label", "max_position_embeddings", "tie_word_embeddings")


def fetch(folder: Path) -> Any:
    """A folder with and without prose beside its weights, as a model and as data, and one file."""
    files = {"config.json": "{}", "model.safetensors": "weights", "sub/tokenizer.json": "[]"}
    prose = {"README.md": "A card.", "LICENSE": "mit", "sub/notes.txt": "x"}
    for name, content in {**files, **prose}.items():
        for place in ["whole", "bare"] if name in files else ["whole"]:
            path = folder / place / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
    found = {}
    for name, place, kind, licence in [
        ("model with prose", "whole", "model", None),
        ("model without", "bare", "model", "mit"),
        ("data", "whole", "dataset", "cc0-1.0"),
        ("file", "whole/config.json", "dataset", None),
    ]:
        config = SourceConfig(source=f"path:{folder / place}", licence=licence)
        record = fetch_source(config, kind, folder / "cache")  # type: ignore[arg-type]
        names = ("kind", "resolved", "sha256", "licence", "files", "bytes", "digest")
        found[name] = {each: getattr(record, each) for each in names}
    return found


def import_encoder(folder: Path) -> Any:
    """A base in two dtypes, and experts whose classes are in the order of the task or another."""
    raw, base = inputs.raw_encoder(folder / "raw"), folder / "base"
    import_base(raw, base, {"source": "test"})
    short = folder / "short"
    shutil.copytree(raw, short)
    BertModel.from_pretrained(raw).to(torch.bfloat16).save_pretrained(short)
    import_base(short, folder / "from bfloat16", {"source": "test"})
    for name, labels in {"in order": "abc", "in another": "cab", "unnamed": ""}.items():
        names = {}
        if labels:
            names["id2label"] = dict(enumerate(labels))
            names["label2id"] = {label: index for index, label in enumerate(labels)}
        source = inputs.raw_classifier(folder / f"raw {name}", inputs.KIND, 1, **names)
        request = FinetuneRequest(target=inputs.KIND, settings=None, seed=0)
        import_expert(source, base, request, folder / name, {"source": "test"})
    names = ("base", "from bfloat16", "in order", "in another", "unnamed")
    return {name: _model(folder / name) for name in names}


def import_decoder(folder: Path) -> Any:
    """Decoders in files of three formats, in two dtypes, and with a head that is the embedding."""
    raw = inputs.llama(folder / "raw")
    inputs.llama(folder / "bfloat16", dtype=torch.bfloat16, tie_word_embeddings=True)
    pickled = folder / "pickled"
    shutil.copytree(raw, pickled)
    checkpoint = open_checkpoint(raw)
    state = {name: torch.from_numpy(np.array(checkpoint[name])).half() for name in checkpoint}
    torch.save(state, pickled / "pytorch_model.bin")
    (pickled / "model.safetensors").unlink()
    _quantised(folder / "quantised.gguf")
    found = {}
    for source in ("raw", "bfloat16", "pickled", "quantised.gguf"):
        publish_decoder(folder / source, folder / f"from {source}", {"source": "test"})
        found[source] = _model(folder / f"from {source}")
    return found


def deltas(folder: Path) -> Any:
    """Sizes of deltas in the workflow's table and in the report: small ones, large ones, and none.

    Inputs are exact, and sums of squares are taken in float64.
    """
    base = inputs.encoder(folder)
    small = inputs.classifier(folder, base, inputs.KIND, 1)
    ranges = expert_delta_sizes(base, small, "kind")
    few = ("tensor", "n", "mean", "rms", "max", "q50", "q999", "d10", "lowest", "highest")
    tensors = [[each.row()[name] for name in few] for each in ranges[1:]]
    bins = {index: count for index, count in enumerate(ranges[0].histogram) if count}
    units = {"none": 0.0, "small": 2**-17, "middling": 2**-14, "large": 2**-8}
    decoder = inputs.llama(folder / "decoder")
    reports = {}
    for name, unit in units.items():
        other = inputs.llama(folder / name, seed=2, unit=unit)
        for dtype in (None, "bfloat16", "float16"):
            report = measure(decoder, other, dtype)
            whole = report.whole
            reports[f"{name} in {dtype or 'the dtype of the base'}"] = {
                **{each: getattr(whole, each) for each in ("l1", "l2", "large", "unchanged")},
                "verdict": report.verdict.partition(":")[0].partition(".")[0],
            }
    return {"whole": ranges[0].row(), "bins": bins, "tensors": tensors, "reports": reports}


def _model(folder: Path) -> dict[str, Any]:
    config, digests = read_json(folder / "config.json"), digest_tensors(open_checkpoint(folder))
    return {
        "tensors": {name: each[:12] for name, each in digests.items()},
        "config": {name: config[name] for name in _CONFIG if name in config},
    }


def _quantised(path: Path) -> None:
    """A Llama of one layer in blocks of 8 bits, in float16 and in float32."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(64)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    tokens = ["<unk>", "<s>", "</s>", "a", "b", "ab", *(f"t{number}" for number in range(6, 64))]
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, 3, *[1] * 61])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    shapes = {
        "token_embd": (64, 32),
        "output": (64, 32),
        **{f"blk.0.attn_{part}": (32, 32) for part in ("q", "k", "v", "output")},
        **{f"blk.0.ffn_{part}": (64, 32) for part in ("gate", "up")},
        "blk.0.ffn_down": (32, 64),
        **dict.fromkeys(("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"), (32,)),
    }
    for name, shape in shapes.items():
        values = inputs.drawn(name, 0, shape, 2**-8)
        if "ffn" in name and len(shape) == 2:
            blocks = gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q8_0)
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(f"{name}.weight", blocks, raw_dtype=kind)
        else:
            half = values.astype(np.float16) if "attn" in name and len(shape) == 2 else values
            writer.add_tensor(f"{name}.weight", half)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


NUMBERS = {
    "fetch": Numbers(fetch),
    "import_encoder": Numbers(import_encoder),
    "import_decoder": Numbers(import_decoder),
    "deltas": Numbers(deltas, ARITHMETIC),
}
