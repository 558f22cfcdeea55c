"""The command line: `mergegrid check`, `mergegrid docs`, `mergegrid summary`."""

import logging
import sys
from pathlib import Path
from typing import Annotated

import typer

from mergegrid.config.documentation import write_documentation
from mergegrid.config.loading import check_paths, read_study
from mergegrid.errors import MergegridError
from mergegrid.reporting.summary import summary

app = typer.Typer(help="Drop, rescale, merge and score language models, over whole grids.")
Config = Annotated[Path, typer.Argument(help="configuration file")]


@app.command()
def check(config: Config = Path("config/config.yaml")) -> None:
    """Check a configuration without running anything."""
    study = read_study(config)
    check_paths(study)
    experts = sum(len(family.experts) for family in study.families.values())
    typer.echo(f"{config} is fine: {len(study.tasks)} tasks, {experts} experts")


@app.command("summary")
def show_summary(config: Config = Path("config/config.yaml")) -> None:
    """Say where the results of a study are, and how long each stage took."""
    typer.echo(summary(read_study(config)))


@app.command()
def docs(folder: Annotated[Path, typer.Argument(help="folder")] = Path("config")) -> None:
    """Bring the JSON schema and the reference of the configuration up to date."""
    write_documentation(folder)


def main() -> None:
    """Run the command line; an error that users can mend is one line, not a traceback."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        app()
    except MergegridError as error:
        sys.exit(f"error: {error}")
