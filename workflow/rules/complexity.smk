"""Complexity: Table 1, the size of the models.

input   nothing but the configurations
output  COMPLEXITY: parameters and FLOPs, always of the paper-sized models
steps   complexity
"""

IN_PAPER = [run for run in PLAN.all_runs.values() if run.in_paper]


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
                *(path for run in IN_PAPER for path in training_files(run.config, run.options)),
            ]
        ),
        runs=[run.model_dump_json() for run in IN_PAPER],
    shell:
        "python -m tood complexity --output {output:q} > {log:q} 2>&1"
