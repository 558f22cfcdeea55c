"""Commands of studies: create, check, run and summarize them, and replay their merges as races.

Commands import what they need when they run, so that each starts as fast as it can.
"""

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()
Study = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[CONFIG]...",
        help="configuration file, by default study.yaml or config/config.yaml; of several, later "
        "ones replace values of earlier ones",
    ),
]


class Device(StrEnum):
    """Where the arithmetic runs."""

    CPU = "cpu"
    CUDA = "cuda"


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="folder of the new study")],
    base: Annotated[str, typer.Option(help="folder or hub id of the base")],
    expert: Annotated[
        list[str], typer.Option(help="NAME=MODEL: an expert, by folder or hub id; repeat it")
    ],
    benchmark: Annotated[
        list[str],
        typer.Option(
            help="NAME, EXPERT:NAME or NAME=FILE.jsonl: gsm8k, math, humaneval, mbpp, alpaca_eval, "
            "or questions of your own; repeat it"
        ),
    ],
) -> None:
    """Create a study of decoders: check the models, write a commented file, say what it costs."""
    from mergegrid.study.new_study.create import create_study

    for line in create_study(folder, base, expert, benchmark):
        typer.echo(line)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def run(
    context: typer.Context,
    cores: Annotated[str | None, typer.Option(help="number of cores; by default all")] = None,
    resources: Annotated[
        list[str] | None, typer.Option(help="limit such as gpu=8, for 8 GPUs; repeat it")
    ] = None,
    profile: Annotated[str | None, typer.Option(help="profile of Snakemake, such as slurm")] = None,
) -> None:
    """Run a study, by Snakemake, whose own options follow after `--`.

    As in: mergegrid run study.yaml --resources gpu=8 -- --keep-incomplete. Without a file, the
    study is study.yaml or config/config.yaml of the working folder. Names of studies that come with
    mergegrid, such as quickstart and smoke, work everywhere. Further files, whose names end in
    .yaml, replace values of the first.
    """
    from mergegrid.study.runtime.launching import RunOptions, run_study

    words = list(context.args)
    names: list[str] = []
    while words and not words[0].startswith("-") and (not names or words[0].endswith(".yaml")):
        names.append(words.pop(0))
    run_study(names, RunOptions(cores, resources or (), profile, words))


@app.command()
def check(config: Study = None) -> None:
    """Check a configuration, local data, and whether results mix versions of libraries.

    Runs nothing and downloads nothing.
    """
    from mergegrid.study.local_data import check_local_data
    from mergegrid.study.reporting.summary import library_warnings
    from mergegrid.study.runtime.launching import study_files
    from mergegrid.study.schema.loading import check_paths, read_study

    paths = study_files(config or ())
    study = read_study(*paths)
    check_paths(study)
    check_local_data(study)
    counts = []
    if encoders := study.encoders:
        experts = sum(len(family.experts) for family in encoders.families.values())
        counts.append(f"tasks: {len(encoders.tasks)}, encoder experts: {experts}")
        if encoders.oracle:
            oracles = sum(len(encoders.oracle_sets(name)) for name in encoders.families)
            counts.append(f"oracles: {oracles}")
    if decoders := study.decoders:
        experts = sum(len(family.experts) for family in decoders.families.values())
        counts.append(f"benchmarks: {len(decoders.benchmarks)}, decoder experts: {experts}")
    typer.echo(f"{' + '.join(map(str, paths))}: OK, {', '.join(counts)}")
    for line in library_warnings(study):
        typer.echo(line, err=True)


@app.command("summary")
def show_summary(config: Study = None) -> None:
    """Print what a study found, where its results are, and how long each stage took."""
    from mergegrid.study.reporting.summary import summary
    from mergegrid.study.runtime.launching import study_files
    from mergegrid.study.schema.loading import read_study

    typer.echo(summary(read_study(*study_files(config or ()))))


@app.command()
def racing(
    config: Study = None,
    start: Annotated[
        list[float] | None, typer.Option(help="merges.racing.start; several are compared")
    ] = None,
    keep: Annotated[
        list[float] | None, typer.Option(help="merges.racing.keep; several are compared")
    ] = None,
    examples: Annotated[
        list[int] | None, typer.Option(help="merges.racing.examples; several are compared")
    ] = None,
    orders: Annotated[int, typer.Option(min=1, help="number of random orders of the examples")] = 5,
    device: Annotated[Device, typer.Option(help="where missing scores are measured")] = Device.CPU,
    table: Annotated[Path | None, typer.Option("--csv", help="file for the table")] = None,
) -> None:
    """Replay the merges of a finished study as races: what they cost in points and save in time."""
    # As in jobs of a study: missing heads are expected, and sums depend on the number of threads.
    os.environ["TRANSFORMERS_VERBOSITY"] = "error"
    import torch

    from mergegrid.study.encoders.replay import racings_of, replay_study, spread_over_seeds
    from mergegrid.study.runtime.launching import study_files
    from mergegrid.study.schema.loading import read_study

    torch.set_num_threads(1)
    study = read_study(*study_files(config or ()))
    ways = racings_of(study, start, keep, examples, orders)
    losses = replay_study(study, ways, device.value)
    if table:
        losses.to_csv(table, index=False)
    typer.echo(losses.to_string(index=False, float_format="{:.3f}".format))
    typer.echo(
        "differ, evaluated: shares; validation, test, worst: points lost by the choices of races. "
        f"Standard deviation over seeds of one test score: {spread_over_seeds(study):.3f} points."
    )


class StatisticsKind(StrEnum):
    """The method that needs model statistics."""

    FISHER = "fisher"
    REGMEAN = "regmean"


@app.command()
def statistics(
    model: Annotated[str, typer.Argument(help="folder or hub id of a decoder")],
    out: Annotated[Path, typer.Argument(help="file to write, such as math.safetensors")],
    kind: Annotated[StatisticsKind, typer.Option(help="method that needs them")],
    texts: Annotated[
        Path,
        typer.Option(help='JSON lines: {"text": ...}, or {"instruction": ..., "output": ...}'),
    ],
    examples: Annotated[
        int | None, typer.Option(min=1, help="number of texts, the first ones; by default all")
    ] = None,
    max_length: Annotated[int, typer.Option(min=2, help="tokens after which a text is cut")] = 1024,
    prompt: Annotated[str, typer.Option(help="text around each {instruction}")] = "{instruction}",
    chat: Annotated[
        bool, typer.Option("--chat", help="put instructions in the model's chat template")
    ] = False,
    base: Annotated[
        str | None, typer.Option(help="folder or hub id of the base, for LoRA adapters")
    ] = None,
    device: Annotated[Device, typer.Option(help="where the model computes")] = Device.CPU,
) -> None:
    """Gather model statistics of a decoder, for merges by fisher or regmean."""
    from mergegrid.study.model_statistics.of_folder import Texts, write_statistics

    how = Texts(texts, examples, max_length, prompt, chat)
    write_statistics(model, out, kind.value, how, base, device.value)
    typer.echo(str(out))
