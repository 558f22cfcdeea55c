"""
Merged decoders on tasks of lm-evaluation-harness, which has a separate environment.

REQUIRED INPUTS: <results>/{family}/models/{variant}
OUTPUTS: scores = <results>/{family}/harness/{variant}.parquet
"""


rule harness:
    """Score one merged model on tasks of lm-eval; the harness's results and log are kept beside."""
    input:
        model="<results>/{family}/models/{variant}",
    output:
        scores="<results>/{family}/harness/{variant}.parquet",
    log:
        "<logs>/harness/{family}/{variant}.log",
    benchmark:
        "<logs>/benchmarks/harness/{family}/{variant}.tsv"
    # So that merged models do not pile up.
    priority: 1
    conda:
        "../envs/lm_eval.yml"
    threads: 1
    resources:
        gpu=lambda wildcards: generation_gpus(wildcards.family),
        gpu_share=lambda wildcards: whole_share(generation_gpus(wildcards.family)),
        nodes=1,
        cpus_per_gpu=CPUS_PER_GPU,
        merged_models=1,
        mem_mb=lambda wildcards, attempt: generation_mb(wildcards.family) * attempt,
        runtime=lambda wildcards, attempt: 1440 * attempt,
    params:
        request=harness_parameters,
        tasks=lambda wildcards: digest(custom_tasks(DECODERS.harness)),
        versions=stage_versions("harness"),
    script:
        "../scripts/harness.py"
