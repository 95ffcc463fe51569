"""Figures: result, score map and IoU map of ATSS and TOOD, as in the paper's Figure 1.

input   model.pth of the first seed of both runs (or of the one that the study has), MANIFEST
output  RESULTS/figures/figure1.{png,pdf}
steps   figure1
"""

FIGURES = (
    [f"{RESULTS}/figures/figure1.png", f"{RESULTS}/figures/figure1.pdf"]
    if FIGURE1
    else []
)


rule figure1:
    input:
        models=expand(
            f"{RUN_FOLDER}/model.pth", run=FIGURE1.values(), seed=PLAN.seeds[0]
        ),
        manifest=MANIFEST,
    output:
        png=f"{RESULTS}/figures/figure1.png",
        pdf=f"{RESULTS}/figures/figure1.pdf",
    log:
        f"{WORK}/logs/figure1.log",
    conda:
        "../../environment.yml"
    threads: CPUS
    resources:
        gpu=GPUS,
        mem_mb=PLAN.scale.resources.mem_mb,
        runtime=PLAN.scale.resources.runtime,
    params:
        detectors=[
            argument
            for name, run in FIGURE1.items()
            for argument in (
                "--name",
                name,
                "--settings",
                json.dumps(PLAN.settings(run)),
            )
        ],
        models=lambda wildcards, input: [
            part for path in input.models for part in ("--model", path)
        ],
        options=evaluation_options(),
    shell:
        "python workflow/scripts/figure1.py {params.detectors:q} {params.models} "
        "--manifest {input.manifest} {params.options} --threads {threads} "
        "--png {output.png} --pdf {output.pdf} 2>&1 | tee {log}"
