"""Time per token of the transformers backend on the CPU, for the estimates of new studies.

    snakemake --cores all results/smollm2/base                  # SmolLM2-135M, from a PyPI package
    python benchmarks/answers.py results/smollm2/base           # measure, print
    python benchmarks/answers.py results/smollm2/base --record  # and keep in resources/

Word problems are answered in batches as in a study, on one thread, as jobs compute on the CPU. Time
is that of the processor, from the first batch to the last, without imports and loading; tokens are
those of all answers, and a batch takes as long as its longest answer.
"""

import argparse
import csv
import platform
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import torch

from mergegrid.study.generation.backend import GenerationRequest
from mergegrid.study.generation.transformers_backend import TransformersBackend
from mergegrid.study.runtime.memory_estimates import size_of
from mergegrid.study.schema.generation import Generation, Sampling
from mergegrid.study.tasks.generators import generate

RECORD = Path(__file__).parents[1] / "resources" / "measured_costs.csv"
QUESTIONS, TOKENS, BATCH = 64, 64, 32


def processor() -> str:
    """Name of the processor."""
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def seconds_per_token(model: Path, dtype: str) -> tuple[float, int]:
    """Seconds per generated token, and the number of tokens."""
    settings = Generation(backend="transformers", dtype=dtype, batch_size=BATCH)
    engine = {"backend": "transformers", "dtype": dtype, "device": "cpu", "tensor_parallel": 1}
    backend = TransformersBackend(engine, settings, model, "cpu")
    sampling = Sampling(max_tokens=TOKENS)
    texts = [record["question"] for record in generate("word_problems", QUESTIONS, 0)]
    tokenizer = backend.prompts.tokenizer
    requests = [GenerationRequest(tuple(tokenizer(text)["input_ids"]), sampling) for text in texts]
    list(backend.generate(requests[:2]))  # Allocates.
    start = time.process_time()
    answers = [completion for _, finished in backend.generate(requests) for completion in finished]
    seconds = time.process_time() - start
    count = sum(answer.tokens for answer in answers)
    return seconds / count, count


def main() -> None:
    """Measure, print and, if asked, record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="folder of a model in safetensors")
    parser.add_argument("--record", action="store_true", help="write resources/measured_costs.csv")
    options = parser.parse_args()
    torch.set_num_threads(1)  # As jobs do on the CPU.
    parameters = size_of(options.model).parameters
    rows = []
    for dtype in ("float32", "bfloat16"):
        seconds, count = seconds_per_token(options.model, dtype)
        basis = (
            f"{parameters / 1e6:.0f} M parameters, {dtype}, transformers, batches of {BATCH}, "
            f"one thread of {processor()}, {datetime.now(UTC):%Y-%m-%d}"
        )
        sys.stdout.write(f"{1 / seconds:.1f} tokens per second ({count} tokens): {basis}\n")
        rows.append(
            {
                "cost": f"seconds_per_token_cpu_{dtype}",
                "value": f"{seconds:.3g}",
                "unit": "s",
                "parameters": parameters,
                "basis": basis,
                "command": "python benchmarks/answers.py results/smollm2/base --record",
            }
        )
    if options.record:
        with RECORD.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
