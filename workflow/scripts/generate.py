from pathlib import Path

from _job import device, job, quiet_transformers

# Processes that vLLM spawns import this file once more.
if __name__ == "__main__":
    with job(snakemake):
        import pandas as pd

        from mergegrid.checkpoints.publish import published_digest
        from mergegrid.study.generation.answering import AnswerJob, answer
        from mergegrid.study.schema.decoder_jobs import GenerateRequest

        quiet_transformers()
        request = GenerateRequest.model_validate_json(snakemake.params.request)
        names = [ask.benchmark for ask in request.asks]
        tables = map(pd.read_parquet, snakemake.input.questions)
        model, output = Path(snakemake.input.model), Path(snakemake.output.answers)
        answer_job = AnswerJob(
            request.asks,
            dict(zip(names, tables, strict=True)),
            request.generation,
            output.with_suffix(".store.jsonl"),
            device(snakemake),
            snakemake.resources.get("gpu", 0),
        )
        answer(model, published_digest(model), answer_job).to_parquet(output)
