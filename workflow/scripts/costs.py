import json
from pathlib import Path

from _job import job

with job(snakemake):
    from mergegrid.study.reporting.costs import cost_table, costs_figure, job_costs
    from mergegrid.study.reporting.files import write_figure, write_table

    jobs = job_costs(Path(snakemake.params.logs))
    jobs.to_parquet(snakemake.output.jobs)
    table = cost_table(jobs, json.loads(snakemake.params.asked))
    write_table(table, *(Path(snakemake.output[kind]) for kind in ("csv", "md", "html", "tex")))
    write_figure(costs_figure(table), Path(snakemake.output.svg), Path(snakemake.output.png))
