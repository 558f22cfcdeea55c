"""One recipe merged into a folder, as rule `merge` does it."""

from mergegrid.api import run_job
from mergegrid.merging import MergeJob


def merge_recipe(recipe, base, experts, output, homologous, folder, threads):
    job = MergeJob(base, experts, {folder: recipe}, output, homologous=homologous)
    run_job(job, threads=threads)
