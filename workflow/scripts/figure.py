from pathlib import Path

from _job import job

with job(snakemake):
    from mergegrid.study.reporting.catalogue import FIGURES
    from mergegrid.study.reporting.files import write_figure
    from mergegrid.study.reporting.results import Results

    results = Results.from_files(dict(snakemake.input.items()))
    figure = FIGURES[snakemake.wildcards.figure].draw(snakemake.wildcards.family, results)
    write_figure(figure, Path(snakemake.output.svg), Path(snakemake.output.png))
