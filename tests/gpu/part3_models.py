"""Training, generation, statistics and memory on a GPU: G4, G6, G7, G8, G9, C9."""

import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import made
import numpy as np
import pandas as pd
import torch
from steps import Machine, Row, SkippedError, step

from mergegrid.checkpoints.model_statistics import open_statistics
from mergegrid.recipes.output import Output
from mergegrid.study.decoders.importing import import_decoder
from mergegrid.study.finetuning.classifier import finetune
from mergegrid.study.finetuning.decoder import finetune_decoder
from mergegrid.study.finetuning.resuming import CheckpointDigests
from mergegrid.study.generation.backend import GenerationRequest
from mergegrid.study.generation.engines import engine_identity
from mergegrid.study.generation.merged import Models
from mergegrid.study.generation.transformers_backend import TransformersBackend
from mergegrid.study.model_statistics.gather import gather
from mergegrid.study.runtime import gpu_devices as devices
from mergegrid.study.runtime import gpu_monitor
from mergegrid.study.schema.decoder_jobs import DecoderFinetuneRequest
from mergegrid.study.schema.encoder_jobs import FinetuneRequest, Statistic
from mergegrid.study.schema.generation import Generation, Sampling
from mergegrid.study.schema.grid_study import recipes_for
from mergegrid.study.schema.grids import Similarity, sweep_points
from mergegrid.study.scoring.similarity import decoder_similarity

HERE = Path(__file__).resolve().parent
#: Exit status of a fine-tuning that is interrupted.
ENDED = 9


def apart(work: Callable[[], object], status: int = 0) -> float:
    """Run some work in a process of its own, which must end with a status; its seconds.

    This process must not have started CUDA: no fork could use it.
    """
    start = time.perf_counter()
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join()
    if process.exitcode != status:
        raise RuntimeError(f"a process ended with status {process.exitcode}; see the log")
    return time.perf_counter() - start


@step("G4", limit=400)
def training_twice(machine: Machine, folder: Path) -> Row:
    """An encoder fine-tuned twice with one seed has equal digests, and so has one interrupted."""
    made.encoders(folder, made.roberta_config(base=machine.real))
    steps, longest = machine.size((100, 128), (10, 24))
    examples = made.examples(
        {"train": 16 * steps, "validation": 64}, longest, machine.size(50265, 512)
    )
    train = partial(_finetune, machine, folder, examples)
    times = {name: apart(partial(train, name)) for name in ("once", "twice")}
    apart(partial(train, "resumed", stop=True), status=ENDED)
    apart(partial(train, "resumed"))
    for name in ("any order", "TF32"):
        times[name] = apart(partial(train, name))
    first, again, resumed = (made.digests(folder / each) for each in ("once", "twice", "resumed"))
    shown = ", ".join(f"{name} {seconds:.1f}" for name, seconds in times.items())
    return Row(
        f"twice {'equal' if first == again else 'other'}, "
        f"resumed {'equal' if first == resumed else 'other'}; s for {2 * steps} steps: {shown}",
        "twice equal, resumed equal",
        first == again == resumed,
    )


def _finetune(
    machine: Machine, folder: Path, examples: pd.DataFrame, name: str, stop: bool = False
) -> None:
    """Fine-tune for two epochs, or end the process when the first one is saved."""
    # As jobs do, before CUDA starts.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if name == "TF32":
        torch.backends.cuda.matmul.allow_tf32 = True
    if name == "any order":
        torch.use_deterministic_algorithms = lambda *_, **__: None
    record_digests = CheckpointDigests.on_save

    def record_and_exit(*arguments: Any, **names: Any) -> None:
        record_digests(*arguments, **names)
        os._exit(ENDED)

    if stop:
        CheckpointDigests.on_save = record_and_exit  # type: ignore[method-assign]
    settings = {"learning_rate": 1e-4, "epochs": 2, "batch_size": 16}
    request = FinetuneRequest(target=made.TARGET, settings=settings, seed=3)
    finetune(folder / "base", request, examples, folder / name, machine.device)


@step("G6", limit=400)
def memory_of_training(machine: Machine, folder: Path) -> Row:
    """What a decoder's fine-tuning needs of the GPU's memory, whole and by LoRA."""
    model = made.llama(machine.size("1B", "tiny"), "cpu", torch.bfloat16)
    count = sum(parameter.numel() for parameter in model.parameters())
    made.save(model, folder / "raw")
    import_decoder(folder / "raw", folder / "base", {"source": "made here"})
    del model
    peaks, shown = folder / "peaks.txt", []
    for name, lora in {"whole": None, "LoRA": {"rank": 16}}.items():
        apart(partial(_finetune_decoder, machine, folder, name, lora, peaks))
        peak = float(peaks.read_text())
        shown.append(f"{name} {peak / 1e9:.1f} GB, {peak / count:.1f} bytes per parameter")
    done = all((folder / name / "manifest.json").is_file() for name in ("whole", "LoRA"))
    return Row(
        f"{count / 1e9:.2f}B parameters: {'; '.join(shown)}",
        "both end; whole about 18 bytes per parameter and activations, 126 GB for 7B (estimates)",
        done,
    )


def _finetune_decoder(
    machine: Machine, folder: Path, name: str, lora: dict[str, int] | None, peaks: Path
) -> None:
    count, longest = machine.size((80, 512), (12, 32))
    vocabulary = machine.size(32000, 512)
    rows = {
        "split": ["train"] * count + ["validation"] * 4,
        "instruction": made.texts(count + 4, longest // 2, vocabulary, 1),
        "output": made.texts(count + 4, longest // 2, vocabulary, 2),
    }
    request = DecoderFinetuneRequest.model_validate(
        {
            "data": {"generated": {"generator": "instructions", "count": 2}},
            "settings": {
                "epochs": 1,
                "batch_size": 4,
                "precision": "bfloat16",
                "gradient_checkpointing": True,
                "lora": lora,
            },
            "prompt": "{instruction}",
            "chat": False,
            "seed": 0,
        }
    )
    finetune_decoder(folder / "base", request, pd.DataFrame(rows), folder / name, machine.device)
    peaks.write_text(str(torch.cuda.max_memory_allocated() if machine.real else 0))


@step("G7", limit=300)
def answers(machine: Machine, folder: Path) -> Row:
    """PrepassResults in float32 depend neither on the device nor on the batch, greedy or drawn."""
    size = machine.size("0.3B", "tiny")
    model = made.save(made.llama(size, "cpu"), folder / "model")
    vocabulary, count = made.LLAMAS[size][-1], machine.size(50, 12)
    written, speeds = {}, []
    for device, batch in [("cpu", 32), (machine.device, 4), (machine.device, 32)]:
        settings = Generation(backend="transformers", dtype="float32", batch_size=batch)
        engine = TransformersBackend(
            engine_identity(settings, model, device, 1), settings, model, device
        )
        asked = [engine.prompts.encode(text) for text in made.texts(count, 48, vocabulary)]
        for temperature in (0.0, 0.8):
            stops = ["w7", "w42"] if temperature else []
            sampling = Sampling(max_tokens=32, temperature=temperature, stop=stops, seed=5)
            start = time.perf_counter()
            found = dict(
                engine.generate([GenerationRequest(tuple(ids), sampling) for ids in asked])
            )
            seconds = time.perf_counter() - start
            tokens = sum(each.tokens for (each,) in found.values())
            written[device, batch, temperature] = {key: each[0].text for key, each in found.items()}
            speeds.append(f"{tokens / seconds:.0f}")
        engine.close()
    equal = {
        (device, batch, temperature): sum(
            text == written["cpu", 32, temperature][key] for key, text in each.items()
        )
        for (device, batch, temperature), each in written.items()
        if (device, batch) != ("cpu", 32)
    }
    return Row(
        f"equal answers of {count}: {', '.join(map(str, equal.values()))} (batch 4 and 32, greedy "
        f"and drawn); tokens per s: {', '.join(speeds)} (first two on the CPU)",
        f"{count} each; a near tie of two tokens may part two",
        min(equal.values()) >= count - machine.size(2, 0),
    )


@step("G8", limit=120)
def tf32_of_triton(machine: Machine, folder: Path) -> Row:
    """A float32 product by Triton is TF32, unless TRITON_F32_DEFAULT is ieee."""
    if not find_spec("triton"):
        raise SkippedError("skipped: no triton")
    errors = []
    for number, precision in enumerate(("", "ieee")):
        environment = {**os.environ, "TRITON_CACHE_DIR": str(folder / str(number))}
        if precision:
            environment["TRITON_F32_DEFAULT"] = precision
        if not machine.real:
            environment["TRITON_INTERPRET"] = "1"
        command = [sys.executable, HERE / "triton_dot.py", machine.device]
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True)
        errors.append(float(done.stdout))
    default, ieee = errors
    return Row(
        f"errors {default:.1e} by default, {ieee:.1e} with ieee",
        f"about {machine.size('1e-4 to 1e-3', '1e-6')} and 1e-6",
        ieee < 1e-5 and (default > 1e-5 or not machine.real),
    )


@step("G9", limit=400)
def statistics(machine: Machine, folder: Path) -> Row:
    """Fisher information, Gram matrices and similarities are those of the CPU, up to rounding."""
    made.encoders(folder, made.roberta_config(machine.real, layers=4), ("praise",))
    count = machine.size(512, 32)
    examples = made.examples({"train": count}, 40, machine.size(50265, 512))
    wanted = [
        Statistic(kind=kind, arithmetic="exact", examples=count) for kind in ("fisher", "regmean")
    ]
    llama = machine.size("0.3B", "tiny")
    family = made.decoders(folder / "llamas", llama, "cpu", torch.bfloat16)
    prompts = made.texts(16, 48, made.LLAMAS[llama][-1])
    questions = pd.DataFrame({"id": prompts, "instruction": prompts, "prompt": prompts})
    points = sweep_points(Similarity().sparsifiers, [0.5], [0])
    recipes = recipes_for("llama", ("math",), 0, points)
    models = Models(
        base=family / "base", experts={"math": family / "math"}, output=Output(dtype="bfloat16")
    )
    tables, times = [], []
    for number, device in enumerate(("cpu", machine.device)):
        start = time.perf_counter()
        place = folder / f"statistics{number}"
        gather(folder / "base", folder / "praise", made.TARGET, wanted, examples, place, device)
        middle = time.perf_counter()
        tables.append(decoder_similarity(recipes, models, questions, 16, False, device))
        times.append(f"{middle - start:.1f} and {time.perf_counter() - middle:.1f}")
    differences = [
        made.largest_difference(
            *(dict(open_statistics(folder / f"statistics{n}" / each.file)) for n in (0, 1))
        )
        for each in wanted
    ]
    differences.append(float(np.abs(tables[0]["mean"] - tables[1]["mean"]).max()))
    shown = ", ".join(f"{each:.0e}" for each in differences)
    return Row(
        f"relative differences {shown} (Fisher, Gram, similarity); s: cpu {times[0]}, "
        f"{machine.device} {times[1]}",
        "below 1e-4",
        max(differences) < 1e-4,
    )


@step("C9", needs_gpu=True, limit=90)
def memory_of_a_process(machine: Machine, folder: Path) -> Row:
    """Memory that torch has freed stays with the process, until the process ends."""
    apart(partial(_take_and_free, folder / "held.txt"))
    size, held = (float(word) / 1e3 for word in (folder / "held.txt").read_text().split())
    after = memory_used() / 1e3
    return Row(
        f"{held:.1f} GB used after freeing {size:.1f} GB, {after:.1f} GB when its process is gone",
        f"{size:.1f} GB or more, then less than 4 GB",
        held >= size and after < 4,
    )


def _take_and_free(held: Path) -> None:
    """Write how many MB were taken, and how many the GPU says are used when they are freed."""
    free, _ = torch.cuda.mem_get_info()
    megabytes = min(70_000, int(0.8 * free) >> 20)
    block = torch.empty(megabytes << 20, dtype=torch.uint8, device="cuda")
    del block
    held.write_text(f"{megabytes} {memory_used()}")


def memory_used() -> float:
    """MB of the GPU that are in use."""
    ((memory, _),) = gpu_monitor.sample([devices.visible_devices()[0].key])
    return memory
