from pathlib import Path

from _job import job

with job(snakemake):
    from mergegrid.study.reporting.catalogue import Results, make_table, table_notes
    from mergegrid.study.reporting.files import write_table

    results = Results.from_files(dict(snakemake.input.items()), snakemake.params.request)
    table = make_table(snakemake.wildcards.table, results)
    paths = [Path(snakemake.output[kind]) for kind in ("csv", "md", "html", "tex")]
    write_table(table, *paths, snakemake.params.caption, table_notes(results))
