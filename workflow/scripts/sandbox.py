from pathlib import Path

from _job import job

with job(snakemake):
    from mergegrid.study.grading.programs.sandbox import open_sandbox

    sandbox = open_sandbox(snakemake.params.unsafe)
    Path(snakemake.output.found).write_text("bubblewrap\n" if sandbox.isolated else "none\n")
