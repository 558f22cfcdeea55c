from pathlib import Path

from _job import job

with job(snakemake):
    from mergegrid.study.reporting.catalogue import TABLES
    from mergegrid.study.reporting.files import write_table
    from mergegrid.study.reporting.libraries import table_notes
    from mergegrid.study.reporting.results import Results

    results = Results.from_files(dict(snakemake.input.items()), snakemake.params.request)
    table = TABLES[snakemake.wildcards.table].make(results)
    paths = [Path(snakemake.output[kind]) for kind in ("csv", "md", "html", "tex")]
    write_table(table, *paths, snakemake.params.caption, table_notes(results.scores))
