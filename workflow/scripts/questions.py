from pathlib import Path

from _job import job

with job(snakemake):
    from mergegrid.checkpoints.sources.fetch import Record, locate
    from mergegrid.study.schema.benchmarks import Benchmark
    from mergegrid.study.schema.job_parameters import read_parameters
    from mergegrid.study.tasks.questions import prepare_questions

    (benchmark,) = read_parameters(snakemake.params.request, benchmark=Benchmark)
    path = None
    if benchmark.records is not None:
        record = Record.from_json(Path(snakemake.input.record).read_text())
        path = locate(record, benchmark.records)
    prepare_questions(benchmark, path).to_parquet(snakemake.output.questions)
