"""TOOD (ICCV 2021): every table and figure of the paper from one plan of runs. See README.md."""

from snakemake.utils import min_version

min_version("9.19")


include: "workflow/rules/common.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/weights.smk"
include: "workflow/rules/download.smk"
include: "workflow/rules/rehearse.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/test_dev.smk"
include: "workflow/rules/complexity.smk"
include: "workflow/rules/tables.smk"
include: "workflow/rules/figures.smk"
include: "workflow/rules/report.smk"


onstart:
    before_work()


onsuccess:
    after_success()


onerror:
    after_failure()


rule all:
    default_target: True
    input:
        records(PLAN.trainings),
        # A stale record may exist, so ap.json is required too.
        of_each(OF_RUN.ap, [training for training in PLAN.trainings if training not in RECORDED]),
        PATHS.metrics,
        TABLES,
        FIGURES,
        PATHS.report,
