from pathlib import Path

from _job import job

with job(snakemake):
    import pandas as pd

    from mergegrid.delta_reports.report import expert_delta_sizes

    name = snakemake.wildcards.expert
    folders = Path(snakemake.input.base), Path(snakemake.input.expert)
    sizes = expert_delta_sizes(*folders, name, snakemake.threads)
    rows = [{**tensor.row(), "histogram": tensor.histogram} for tensor in sizes]
    ranges = pd.DataFrame(rows)
    ranges.insert(0, "family", snakemake.wildcards.family)
    ranges.insert(1, "expert", name)
    ranges.insert(2, "training_seed", int(snakemake.wildcards.seed))
    ranges.to_parquet(snakemake.output.table)
