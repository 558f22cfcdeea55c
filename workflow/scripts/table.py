from pathlib import Path

from _job import job

with job(snakemake):
    from mergegrid.reporting.catalogue import Results, make_table
    from mergegrid.reporting.files import write_table

    results = Results.from_files(dict(snakemake.input.items()), snakemake.params.licences)
    table = make_table(snakemake.wildcards.table, results)
    write_table(table, *(Path(snakemake.output[kind]) for kind in ("csv", "md", "html")))
