"""
What is said about a run: facts for the logger `mergegrid`, and the text at its end. No rule is here.
"""

import shlex
import sys

from mergegrid.study.live.earlier_runs import mean_seconds


def started_by():
    """The command that the user typed, and the program in it."""
    # Set by `mergegrid run`.
    typed = os.environ.get("MERGEGRID_COMMAND")
    if typed:
        return typed, "mergegrid"
    return shlex.join(["snakemake", *sys.argv[1:]]), "snakemake"


def announce_run():
    """Tell the logger what runs, and how long its jobs took in earlier runs."""
    announce(
        snakemake_compat.log_handlers(workflow),
        title=STUDY.title,
        results=STUDY.paths.results,
        full_log=snakemake_compat.log_file(workflow),
        again=started_by()[0],
        earlier=mean_seconds(Path(STUDY.paths.logs)),
    )


def conclude_run():
    """Print findings, files and next commands, when all results of the study are there."""
    if not snakemake_compat.ran(workflow, "all"):
        return
    # It imports pandas, which no run needs before its end.
    from mergegrid.study.reporting.summary import conclusion, next_commands

    # Set by `mergegrid run`, which also knows studies by name.
    named = os.environ.get("MERGEGRID_STUDY")
    files = shlex.split(named) if named else map(os.path.relpath, configuration_files())
    commands = next_commands(STUDY, list(files), started_by()[1])
    logger.info(conclusion(STUDY, commands), extra=marked())
