from pathlib import Path

from _job import device, job, quiet_transformers

# Processes that vLLM spawns import this file once more.
if __name__ == "__main__":
    with job(snakemake):
        import pandas as pd

        from mergegrid.checkpoints.publish import published_digest
        from mergegrid.study.generation.answering import AnswerJob, answer
        from mergegrid.study.schema.decoder_jobs import Ask
        from mergegrid.study.schema.generation import Generation
        from mergegrid.study.schema.job_parameters import read_parameters

        quiet_transformers()
        asks, generation = read_parameters(
            snakemake.params.request, asks=list[Ask], generation=Generation
        )
        names = [ask.benchmark for ask in asks]
        tables = map(pd.read_parquet, snakemake.input.questions)
        model, output = Path(snakemake.input.model), Path(snakemake.output.answers)
        answer_job = AnswerJob(
            asks,
            dict(zip(names, tables, strict=True)),
            generation,
            output.with_suffix(".store.jsonl"),
            device(snakemake),
            snakemake.resources.get("gpu", 0),
        )
        answer(model, published_digest(model), answer_job).to_parquet(output)
