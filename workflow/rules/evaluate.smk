"""Evaluate: COCO AP of each trained run.

input   model.pth, MANIFEST
output  detections.json (COCO results), ap.json
steps   evaluate
"""


rule evaluate:
    input:
        model=f"{RUN_FOLDER}/model.pth",
        manifest=MANIFEST,
    output:
        detections=f"{RUN_FOLDER}/detections.json",
        ap=f"{RUN_FOLDER}/ap.json",
    log:
        f"{WORK}/logs/evaluate_{{run}}_seed{{seed}}.log",
    threads: EVALUATION.threads
    resources:
        **asked(lambda wildcards: EVALUATION),
    params:
        settings=settings_of,
        options=evaluation_options(),
        evaluation=evaluation_of("ap.json"),
        batch_size=PLAN.scale.test_batch_size,
    shell:
        "python workflow/scripts/evaluate.py --settings {params.settings:q} --model {input.model} "
        "--manifest {input.manifest} {params.options} --threads {threads} --batch-size {params.batch_size} "
        "--evaluation {params.evaluation} --detections {output.detections} --output {output.ap} 2>&1 | tee {log}"
