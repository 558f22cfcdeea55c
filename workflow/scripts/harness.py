from pathlib import Path

from _job import device, job

with job(snakemake):
    from mergegrid.checkpoints.publish import published_digest, recorded_libraries
    from mergegrid.study.grading.lm_eval import harness_inputs, rows, run_harness
    from mergegrid.study.schema.lm_eval import HarnessRequest
    from mergegrid.study.scoring.scores import score_frame

    request = HarnessRequest.model_validate_json(snakemake.params.request)
    model, output = Path(snakemake.input.model), Path(snakemake.output.scores)
    settings = request.settings
    result = run_harness(
        model, settings, output.with_suffix(""), device(snakemake), request.on_gpus
    )
    inputs = harness_inputs(result, settings, published_digest(model), request.on_gpus)
    libraries = recorded_libraries(model)
    scores = score_frame(rows(result, request.recipe, request.owner, libraries, inputs))
    scores.to_parquet(output)
