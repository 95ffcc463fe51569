"""Test-dev: detections on images without annotations, as COCO's server takes them.

input   model.pth of the runs that the call names, or of those of Table 5; MANIFEST; undeclared, as its content decides
        and not its time, the scale's split `test`
output  detections_test-dev2017_RUN_results.zip in the folder of each run and seed
steps   submission; on demand only (`snakemake test_dev`)
"""


rule test_dev:
    input:
        lambda wildcards: submissions(),
    localrule: True


if PLAN.scale.test:

    rule submission:
        input:
            model=OF_RUN.model,
            manifest=MANIFEST,
        output:
            OF_RUN.submission(study.submitted_images(PLAN), "{run}"),
        log:
            f"{PATHS.logs}/submission_{{run}}_seed{{seed}}.log",
        threads: EVALUATION.threads
        resources:
            **MEASURING
            # test-dev has four times as many images as val.
            | {"runtime": lambda wildcards, attempt: 4 * EVALUATION.runtime},
        params:
            job=lambda wildcards: submission_job(PLAN, *training_of(wildcards)).argument(),
            # As of the annotations, the content decides.
            images=lambda wildcards: study.content_of_test_images(PLAN),
        shell:
            f"{study.PYTHON} "
            "workflow/step.py submission --job {params.job:q} --execution {resources.execution:q} "
            "--output {output:q} > {log:q} 2>&1"
