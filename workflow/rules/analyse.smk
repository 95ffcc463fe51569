"""Analyse: Table 6, the agreement of classification and localisation; Table 1, the size of the models.

input   model.pth and detections.json of the runs of Table 6, MANIFEST
output  alignment.json; alignment_variants.json with the other readings of the paper's definitions
        COMPLEXITY: parameters and FLOPs, always of the paper-sized models
steps   analyse_alignment; complexity
"""

IMPLEMENTED = [run for run in PLAN.all_runs.values() if run.implemented]
COMPLEXITY = "results/paper/complexity.csv"


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
        model=f"{RUN_FOLDER}/model.pth",
        detections=f"{RUN_FOLDER}/detections.json",
        manifest=MANIFEST,
    output:
        alignment=f"{RUN_FOLDER}/alignment.json",
        variants=f"{RUN_FOLDER}/alignment_variants.json",
    log:
        f"{WORK}/logs/analyse_{{run}}_seed{{seed}}.log",
    threads: EVALUATION.threads
    resources:
        **asked(lambda wildcards: EVALUATION),
    params:
        settings=settings_of,
        options=evaluation_options(),
        evaluation=evaluation_of("alignment.json"),
    shell:
        "python workflow/scripts/analyse_alignment.py --settings {params.settings:q} --model {input.model} "
        "--manifest {input.manifest} {params.options} --threads {threads} --evaluation {params.evaluation} "
        "--detections {input.detections} --output {output.alignment} --variants {output.variants} "
        "2>&1 | tee {log}"
