"""Evaluate: COCO AP of each trained run; for the runs of Table 6, in the same pass, their alignment.

input   model.pth, MANIFEST
output  detections.json (COCO results), evaluated_images.json (ids of the images that they are on), ap.json, the
        run's record
        of Table 6: alignment.json; alignment_variants.json with other readings of the paper's definitions;
        best_anchors.json, where each object is classified best and localised best
steps   evaluate, or evaluate_and_analyse
"""

ONLY_EVALUATED = [run for run in RUNS if run not in ANALYSED]


rule evaluate:
    input:
        model=OF_RUN.model,
        manifest=MANIFEST,
    output:
        detections=OF_RUN.detections,
        images=OF_RUN.evaluated_images,
        ap=OF_RUN.ap,
        record=PATHS.record("{run}", "{seed}"),
    log:
        f"{PATHS.logs}/evaluate_{{run}}_seed{{seed}}.log",
    wildcard_constraints:
        run=study.not_recorded(NOT_MADE, ONLY_EVALUATED),
    # Before the next training, so that what is trained has its record soon.
    priority: 1
    threads: EVALUATION.threads
    resources:
        **MEASURING,
        step="evaluate",
    params:
        folder=subpath(output.ap, parent=True),
        job=lambda wildcards: measuring_job(PLAN, *training_of(wildcards)).argument(),
    shell:
        f"{study.PYTHON} "
        "workflow/step.py {resources.step:q} --job {params.job:q} --execution {resources.execution:q} "
        "--folder {params.folder:q} --record {output.record:q} > {log:q} 2>&1"


use rule evaluate as evaluate_and_analyse with:
    output:
        detections=OF_RUN.detections,
        images=OF_RUN.evaluated_images,
        ap=OF_RUN.ap,
        alignment=OF_RUN.alignment,
        variants=OF_RUN.alignment_variants,
        best_anchors=OF_RUN.best_anchors,
        record=PATHS.record("{run}", "{seed}"),
    wildcard_constraints:
        run=study.not_recorded(NOT_MADE, ANALYSED),
    resources:
        **MEASURING,
        step="evaluate_and_analyse",
    params:
        folder=subpath(output.ap, parent=True),
        job=lambda wildcards: analysis_job(PLAN, *training_of(wildcards)).argument(),
