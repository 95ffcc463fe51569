"""Figures: the paper's Figure 1, the sweeps of TAL's hyper-parameters, the positives of Table 2's schemes.

input   model.pth of the first seed of ATSS and TOOD (or of the one that the study has), MANIFEST;
        the tables of the sweeps, where the study has all of their runs; losses.jsonl of the schemes
output  RESULTS/figures/{figure1,sweep_m,alpha_beta,positives}.{png,pdf}
steps   figure1; sweeps; positives
"""

SWEPT = {
    row.run for name in ("table4", "table_m") for row in DECLARED_TABLES[name].rows
}
SWEEPS = ["sweep_m", "alpha_beta"] if SWEPT <= set(RUNS) else []
SCHEMES = {
    row.key["Anchor assignment"]: row.run
    for row in DECLARED_TABLES["positives"].rows
    if row.run in RUNS
}
FIGURES = expand(
    f"{RESULTS}/figures/{{figure}}.{{format}}",
    figure=[
        *(["figure1"] if FIGURE1 else []),
        *(["positives"] if SCHEMES else []),
        *SWEEPS,
    ],
    format=["png", "pdf"],
)
PICTURES = [path for path in FIGURES if path.endswith(".png")]
# The runs, seeds and files that decide whether a figure that is there still shows what is.
SHOWN = {
    "figure1": (FIGURE1.values(), PLAN.seeds[:1], "model.pth"),
    "positives": (SCHEMES.values(), PLAN.seeds, "model.pth"),
    **dict.fromkeys(SWEEPS, (SWEPT, PLAN.seeds, "ap.json")),
}


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
    threads: EVALUATION.threads
    resources:
        **asked(lambda wildcards: EVALUATION),
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


rule sweeps:
    input:
        table_m=f"{RESULTS}/tables/table_m.csv",
        table4=f"{RESULTS}/tables/table4.csv",
    output:
        expand(
            f"{RESULTS}/figures/{{figure}}.{{format}}",
            figure=["sweep_m", "alpha_beta"],
            format=["png", "pdf"],
        ),
    log:
        f"{WORK}/logs/sweeps.log",
    localrule: True
    params:
        folder=subpath(output[0], parent=True),
    shell:
        "python workflow/scripts/sweeps.py --table-m {input.table_m} --table4 {input.table4} "
        "--output {params.folder} 2>&1 | tee {log}"


rule positives:
    input:
        of_all_runs(f"{RUN_FOLDER}/model.pth", SCHEMES.values()),
    output:
        png=f"{RESULTS}/figures/positives.png",
        pdf=f"{RESULTS}/figures/positives.pdf",
    log:
        f"{WORK}/logs/positives.log",
    localrule: True
    params:
        schemes=[
            argument
            for name, run in SCHEMES.items()
            for argument in (
                "--scheme",
                name,
                "--records",
                *of_all_runs(f"{RUN_FOLDER}/losses.jsonl", [run]),
            )
        ],
    shell:
        "python workflow/scripts/positives.py {params.schemes:q} "
        "--png {output.png} --pdf {output.pdf} 2>&1 | tee {log}"
