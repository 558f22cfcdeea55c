from pathlib import Path

from _job import job

with job(snakemake):
    from mergegrid.reporting.catalogue import Results, make_table
    from mergegrid.reporting.files import write_table

    results = Results(
        scores=Path(snakemake.input.scores),
        deltas=[Path(path) for path in snakemake.input.deltas],
        experts=[Path(path) for path in snakemake.input.experts],
        sources=[Path(path) for path in snakemake.input.sources],
    )
    table = make_table(snakemake.wildcards.table, results)
    write_table(table, Path(snakemake.output.csv), Path(snakemake.output.md))
