"""Evaluate: COCO AP of each trained run.

input   model.pth, MANIFEST
output  detections.json (COCO results), ap.json
steps   evaluate
"""


rule evaluate:
    input:
        model=OF_RUN.model,
        manifest=MANIFEST,
    output:
        detections=OF_RUN.detections,
        ap=OF_RUN.ap,
    log:
        f"{PATHS.logs}/evaluate_{{run}}_seed{{seed}}.log",
    threads: EVALUATION.threads
    resources:
        **MEASURING,
    params:
        job=measuring(AP),
    shell:
        f"{study.PYTHON} "
        "workflow/scripts/evaluate.py --job {params.job:q} --execution {resources.execution:q} "
        "--detections {output.detections} --output {output.ap} 2>&1 | tee {log}"
