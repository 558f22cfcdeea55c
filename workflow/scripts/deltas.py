from pathlib import Path

from _job import job

with job(snakemake):
    import pandas as pd

    from mergegrid.checkpoints.folder import open_checkpoint
    from mergegrid.checkpoints.homology import check_homologous
    from mergegrid.merging.ranges import delta_ranges

    name = snakemake.wildcards.expert
    base = open_checkpoint(Path(snakemake.input.base))
    expert = open_checkpoint(Path(snakemake.input.expert))
    check_homologous(base, expert, name)
    rows = [
        {**tensor.row(), "histogram": tensor.histogram} for tensor in delta_ranges(base, expert)
    ]
    ranges = pd.DataFrame(rows)
    ranges.insert(0, "family", snakemake.wildcards.family)
    ranges.insert(1, "expert", name)
    ranges.insert(2, "training_seed", int(snakemake.wildcards.seed))
    ranges.to_parquet(snakemake.output.table)
