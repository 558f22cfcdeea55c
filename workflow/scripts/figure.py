from pathlib import Path

from _job import job

with job(snakemake):
    from mergegrid.study.reporting.catalogue import Results, draw_figure
    from mergegrid.study.reporting.files import write_figure

    results = Results.from_files(dict(snakemake.input.items()))
    figure = draw_figure(snakemake.wildcards.figure, snakemake.wildcards.family, results)
    write_figure(figure, Path(snakemake.output.svg), Path(snakemake.output.png))
