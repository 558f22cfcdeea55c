from pathlib import Path

from _job import job

with job(snakemake):
    from mergegrid.checkpoints.checkpoint import SafetensorsCheckpoint, check_homologous
    from mergegrid.merging.deltas import ExpertDeltas
    from mergegrid.merging.ranges import delta_ranges

    name = snakemake.wildcards.expert
    base = SafetensorsCheckpoint(Path(snakemake.input.base))
    expert = SafetensorsCheckpoint(Path(snakemake.input.expert))
    check_homologous(base, expert, name)
    ranges = delta_ranges(ExpertDeltas(name, base, expert))
    ranges.insert(0, "family", snakemake.wildcards.family)
    ranges.insert(1, "expert", name)
    ranges.insert(2, "training_seed", int(snakemake.wildcards.seed))
    ranges.to_parquet(snakemake.output.table)
