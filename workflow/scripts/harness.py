from pathlib import Path

from _job import device, job

with job(snakemake):
    from mergegrid.checkpoints.publish import published_digest, recorded_libraries
    from mergegrid.recipes.recipe import Recipe
    from mergegrid.study.grading.lm_eval import lm_eval_inputs_digest, lm_eval_rows, run_lm_eval
    from mergegrid.study.schema.job_parameters import read_parameters
    from mergegrid.study.schema.lm_eval import Harness, OnGpus
    from mergegrid.study.scoring.scores import score_frame

    settings, on_gpus, recipe, owner = read_parameters(
        snakemake.params.request, settings=Harness, on_gpus=OnGpus, recipe=Recipe, owner=str
    )
    model, output = Path(snakemake.input.model), Path(snakemake.output.scores)
    result = run_lm_eval(model, settings, output.with_suffix(""), device(snakemake), on_gpus)
    inputs = lm_eval_inputs_digest(result, settings, published_digest(model), on_gpus)
    libraries = recorded_libraries(model)
    scores = score_frame(lm_eval_rows(result, recipe, owner, libraries, inputs))
    scores.to_parquet(output)
