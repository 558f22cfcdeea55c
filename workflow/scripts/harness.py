from pathlib import Path

from _job import device, job

with job(snakemake):
    from mergegrid.checkpoints.publish import published_digest, recorded_libraries
    from mergegrid.study.grading.lm_eval import lm_eval_inputs_digest, lm_eval_rows, run_lm_eval
    from mergegrid.study.schema.lm_eval import HarnessRequest
    from mergegrid.study.scoring.scores import score_frame

    request = HarnessRequest.model_validate_json(snakemake.params.request)
    model, output = Path(snakemake.input.model), Path(snakemake.output.scores)
    settings = request.settings
    result = run_lm_eval(
        model, settings, output.with_suffix(""), device(snakemake), request.on_gpus
    )
    inputs = lm_eval_inputs_digest(result, settings, published_digest(model), request.on_gpus)
    libraries = recorded_libraries(model)
    scores = score_frame(lm_eval_rows(result, request.recipe, request.owner, libraries, inputs))
    scores.to_parquet(output)
