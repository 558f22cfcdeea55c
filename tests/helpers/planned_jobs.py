"""Writes the jobs of a dry run: `python planned_jobs.py FILE [arguments of Snakemake]`.

A line per job: its rule, outputs, inputs and parameters. Captions and stage versions are omitted:
they may change, and rerun their own jobs.
"""

import json
import sys
from pathlib import Path

from snakemake.cli import main
from snakemake.dag import DAG

OMITTED = {"caption", "versions"}


def described(job) -> str:
    """One job as JSON."""
    parameters = {name: str(value) for name, value in job.params.items() if name not in OMITTED}
    files = {"output": list(map(str, job.output)), "input": list(map(str, job.input))}
    return json.dumps({"rule": job.rule.name, **files, "params": parameters}, sort_keys=True)


if __name__ == "__main__":
    file, *arguments = sys.argv[1:]
    stats = DAG.stats

    def write(dag):
        """Write the jobs when Snakemake counts them."""
        Path(file).write_text("\n".join(sorted(map(described, dag.jobs))))
        return stats(dag)

    DAG.stats = write
    main(["--dry-run", "--quiet", "all", "--forceall", "--cores", "1", *arguments])
