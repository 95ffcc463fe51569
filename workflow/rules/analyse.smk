"""Analyse: Table 6, the agreement of classification and localisation; Table 1, the size of the models.

input   model.pth and detections.json of the runs of Table 6, MANIFEST
output  alignment.json; alignment_variants.json with the other readings of the paper's definitions
        COMPLEXITY: parameters and FLOPs, always of the paper-sized models
steps   analyse_alignment; complexity
"""

IMPLEMENTED = [run for run in PLAN.all_runs.values() if run.implemented]


rule complexity:
    output:
        COMPLEXITY,
    log:
        "work/logs/complexity.log",
    localrule: True
    params:
        code=code_digest(
            [
                *import_closure(["tood.analysis.complexity"], rooms=["analysis"]),
                *(
                    path
                    for run in IMPLEMENTED
                    for path in training_files(run.config, run.options)
                ),
            ]
        ),
        runs=[run.model_dump_json() for run in IMPLEMENTED],
    shell:
        "tood complexity --output {output} 2>&1 | tee {log}"


rule analyse_alignment:
    input:
        model=OF_RUN.model,
        detections=OF_RUN.detections,
        manifest=MANIFEST,
    output:
        alignment=OF_RUN.alignment,
        variants=OF_RUN.alignment_variants,
    log:
        f"{PATHS.logs}/analyse_{{run}}_seed{{seed}}.log",
    threads: EVALUATION.threads
    resources:
        **MEASURING,
    params:
        job=measuring(ALIGNMENT),
    shell:
        f"{study.PYTHON} "
        "workflow/scripts/analyse_alignment.py --job {params.job:q} "
        "--execution {resources.execution:q} --detections {input.detections} "
        "--output {output.alignment} --variants {output.variants} 2>&1 | tee {log}"
