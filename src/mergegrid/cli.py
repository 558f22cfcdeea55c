"""The command line: merge, inspect and measure models; `study_cli` has the commands of studies.

Commands import what they need when they run, so that each starts as fast as it can.
"""

import atexit
import gc
import logging
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from mergegrid.errors import ConfigError, MergegridError
from mergegrid.extras import explain
from mergegrid.study_cli import Device
from mergegrid.study_cli import app as study_commands

# NumPy and SciPy each have threads for linear algebra that wait for work by spinning: let them
# sleep soon. This must be set before they are imported.
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")
if not sys.stderr.isatty():
    # In a log, bars of downloads would be lines without end.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

app = typer.Typer(
    pretty_exceptions_enable=False,
)
app.add_typer(study_commands)
IgnoreUnused = Annotated[
    bool,
    typer.Option(
        "--ignore-unused", help="ignore parameters of a mergekit file that its method does not use"
    ),
]


def _print_version(requested: bool) -> None:
    if requested:
        import mergegrid

        typer.echo(f"mergegrid {mergegrid.__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="print the version and exit", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Drop, rescale, merge and score language models, over whole grids."""


@app.command()
def merge(
    recipe: Annotated[Path, typer.Argument(help="merge file or mergekit file (YAML)")],
    out: Annotated[Path, typer.Argument(help="folder of the merged model")],
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="validate and print the plan; write nothing, download no weights"
        ),
    ] = False,
    max_memory: Annotated[str | None, typer.Option(help="memory limit, e.g. 1GiB")] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="threads; by default one per processor")
    ] = None,
    device: Annotated[Device, typer.Option(help="where the arithmetic runs")] = Device.CPU,
    ignore_unused: IgnoreUnused = False,
) -> None:
    """Merge models on disk by a merge file, into folders that transformers and vLLM load."""
    from mergegrid.api import job_of, run_job
    from mergegrid.checkpoints.publish import read_manifest
    from mergegrid.recipes.output import byte_limit

    job = job_of(recipe, out, ignore_unused)
    folders = run_job(job, threads, byte_limit(max_memory, "--max-memory"), device.value, dry_run)
    for folder in folders:
        typer.echo(f"{folder}  {len(read_manifest(folder)['weights']['tensors'])} tensors")


@app.command()
def convert(
    config: Annotated[Path, typer.Argument(help="mergekit file (YAML)")],
    ignore_unused: IgnoreUnused = False,
) -> None:
    """Print the merge file of a mergekit file, with what mergekit does otherwise."""
    from mergegrid.recipes.mergekit.importing import import_file, is_mergekit

    if not is_mergekit(config):
        raise ConfigError(
            f"{config} is not a mergekit file: it has no merge_method; use it as it is"
        )
    typer.echo(import_file(config, ignore_unused).text(), nl=False)


@app.command()
def inspect(folder: Annotated[str, typer.Argument(help="folder or hub id of a model")]) -> None:
    """List tensors of a model or adapter with their digests, and compare with its manifest."""
    from mergegrid import api

    typer.echo(api.inspect(folder))


@app.command()
def push(
    folder: Annotated[
        Path, typer.Argument(help="folder of a merged model; with --results, a configuration file")
    ],
    repo: Annotated[str, typer.Argument(help="repository on the hub, such as org/name")],
    private: Annotated[bool, typer.Option("--private", help="create it private")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="verify, and list files and sizes; upload nothing")
    ] = False,
    revision: Annotated[str | None, typer.Option(help="branch, created if needed")] = None,
    create_pr: Annotated[
        bool, typer.Option("--create-pr", help="open a pull request instead")
    ] = False,
    results: Annotated[
        bool, typer.Option("--results", help="upload the tables of a study as a data set")
    ] = False,
) -> None:
    """Upload a merged model, or the results of a study, to the Hugging Face hub."""
    from contextlib import ExitStack
    from tempfile import TemporaryDirectory

    from mergegrid.checkpoints.upload import send, upload_of_model

    with ExitStack() as stack:
        if results:
            from mergegrid.study.reporting.hub_data_set import upload_of_results
            from mergegrid.study.schema.loading import read_study

            place = Path(stack.enter_context(TemporaryDirectory()))
            upload = upload_of_results(read_study(folder), repo, place)
        else:
            upload = upload_of_model(folder, repo)
        typer.echo(upload)
        for name in upload.left_out:
            typer.echo(f"not uploaded, since {folder}/manifest.json does not list it: {name}")
        if dry_run:
            typer.echo(f"would upload to {repo}")
        else:
            typer.echo(f"uploaded: {send(upload, private, revision, create_pr)}")


@app.command()
def deltas(
    base: Annotated[str, typer.Argument(help="folder or hub id of the base")],
    expert: Annotated[
        str,
        typer.Argument(help="folder or hub id of a model fine-tuned from it, or of a LoRA adapter"),
    ],
    dtype: Annotated[
        str | None,
        typer.Option(help="dtype that a merge is rounded to; by default the base's"),
    ] = None,
    base_is: Annotated[
        list[str] | None,
        typer.Option(help="name that an adapter gives its base, if it is not the folder's"),
    ] = None,
    table: Annotated[
        Path | None, typer.Option("--csv", help="file for all quantiles of every tensor")
    ] = None,
) -> None:
    """Measure how far an expert is from its base, and whether DARE applies to it."""
    from mergegrid import api

    report = api.deltas(base, expert, dtype=dtype, base_is=base_is or ())
    if table:
        report.write_csv(table)
    typer.echo(report)


@app.command()
def extract(
    base: Annotated[str, typer.Argument(help="folder or hub id of the base")],
    model: Annotated[str, typer.Argument(help="folder or hub id of a model fine-tuned from it")],
    out: Annotated[Path, typer.Argument(help="folder of the adapter")],
    rank: Annotated[int | None, typer.Option(help="rank of every matrix, e.g. 64")] = None,
    energy: Annotated[
        float | None,
        typer.Option(help="instead of a rank: share of the squared delta to keep, e.g. 0.99"),
    ] = None,
    max_rank: Annotated[
        int | None, typer.Option(help="largest rank with --energy; by default 512")
    ] = None,
    embeddings: Annotated[
        bool, typer.Option("--embeddings", help="adapt input and output embeddings, too")
    ] = False,
    seed: Annotated[int, typer.Option(help="seed of the random matrices")] = 0,
    dtype: Annotated[str, typer.Option(help="dtype of the factors")] = "float32",
    base_is: Annotated[
        list[str] | None,
        typer.Option(help="what an adapter calls the base, if not by the name of its folder"),
    ] = None,
    table: Annotated[
        Path | None, typer.Option("--csv", help="file for rank, energy and error of every tensor")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="validate and print the plan; write nothing")
    ] = False,
    max_memory: Annotated[str | None, typer.Option(help="memory limit, e.g. 1GiB")] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="threads; by default one per processor")
    ] = None,
) -> None:
    """Extract a LoRA adapter from a fine-tuned model, for PEFT and vLLM."""
    from mergegrid.extraction.low_rank import rank_rule
    from mergegrid.extraction.run import extraction_job, run_extraction
    from mergegrid.recipes.output import byte_limit

    job = extraction_job(base, model, out, rank_rule(rank, energy, max_rank), base_is or ())
    job = replace(job, embeddings=embeddings, seed=seed, dtype=dtype)
    report = run_extraction(job, threads, byte_limit(max_memory, "--max-memory"), dry_run)
    if report:
        if table:
            report.write_csv(table)
        typer.echo(report)


@app.command()
def methods() -> None:
    """List the methods and sparsifiers with their settings, those of other packages included."""
    from mergegrid.methods import METHODS
    from mergegrid.sparsifiers import SPARSIFIERS

    for title, classes in (("sparsifiers", SPARSIFIERS), ("methods", METHODS)):
        typer.echo(f"{title}:")
        for kind, settings in classes.items():
            summary = (settings.__doc__ or "").splitlines()[0]
            names = [name for name in settings.model_fields if name != "kind"]
            typer.echo(f"  {kind}: {summary}")
            if names:
                typer.echo(f"      {', '.join(names)}")


@app.command()
def docs(folder: Annotated[Path, typer.Argument(help="folder")] = Path("config")) -> None:
    """Update the JSON schemas and the references of configuration and results."""
    from mergegrid.study.reporting.documentation import write_results_documentation
    from mergegrid.study.reporting.published_documentation import write_published_documentation
    from mergegrid.study.schema.documentation import write_documentation
    from mergegrid.study.schema.method_documentation import methods_text

    write_documentation(folder)
    page = folder.parent / "docs" / "methods.md"
    page.write_text(methods_text(page.parent), encoding="utf-8")
    write_results_documentation(folder.parent)
    write_published_documentation(folder.parent)


def main() -> None:
    """Run the command line; errors that the user can fix are one line each, with exit code 2."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    # It would log every request to the hub.
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    # Nearly all objects belong to imported modules and live to the end; searching them for garbage
    # again and again would take a tenth of a second.
    gc.set_threshold(100_000)
    # At exit it would take a quarter of a second.
    atexit.register(gc.freeze)
    # Schedulers end jobs this way; unfinished outputs are then removed, as after an interrupt.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        app()
    except MergegridError as error:
        _fail(str(error))
    except ModuleNotFoundError as error:
        missing = explain(error)
        if missing is None:
            raise
        _fail(str(missing))
    except OSError as error:
        _fail(f"{error}; check the path, its permissions and the free space")


def _fail(message: str) -> NoReturn:
    for line in message.splitlines():
        sys.stderr.write(f"error: {line}\n")
    sys.exit(2)
