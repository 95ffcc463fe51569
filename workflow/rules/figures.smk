"""Figures: the paper's Figure 1, the sweeps of TAL's hyper-parameters, the positives of Table 2's schemes.

input   model.pth of the first seed of ATSS and TOOD (or of the one that the study has), MANIFEST;
        the tables of the sweeps, where the study has all of their runs; losses.jsonl of the schemes
output  RESULTS/figures/{figure1,sweep_m,alpha_beta,positives}.{png,pdf}
steps   figure1; sweeps; positives
"""

FIGURES = expand(
    f"{PATHS.figures}/{{figure}}.{{format}}", figure=SOURCES, format=["png", "pdf"]
)


if "figure1" in SOURCES:

    rule figure1:
        input:
            models=of_all_runs(
                OF_RUN.model,
                SOURCES["figure1"].runs.values(),
                SOURCES["figure1"].seeds,
            ),
            manifest=MANIFEST,
        output:
            png=f"{PATHS.figures}/figure1.png",
            pdf=f"{PATHS.figures}/figure1.pdf",
        log:
            f"{PATHS.logs}/figure1.log",
        threads: EVALUATION.threads
        resources:
            **MEASURING,
        params:
            job=study.figure1_job(PLAN, SOURCES["figure1"]).argument(),
        shell:
            f"{study.PYTHON} "
            "workflow/scripts/figure1.py --job {params.job:q} --execution {resources.execution:q} "
            "--png {output.png} --pdf {output.pdf} 2>&1 | tee {log}"


rule sweeps:
    input:
        table_m=f"{PATHS.tables}/table_m.csv",
        table4=f"{PATHS.tables}/table4.csv",
    output:
        expand(
            f"{PATHS.figures}/{{figure}}.{{format}}",
            figure=["sweep_m", "alpha_beta"],
            format=["png", "pdf"],
        ),
    log:
        f"{PATHS.logs}/sweeps.log",
    localrule: True
    params:
        folder=subpath(output[0], parent=True),
    shell:
        "python workflow/scripts/sweeps.py --table-m {input.table_m} --table4 {input.table4} "
        "--output {params.folder} 2>&1 | tee {log}"


if "positives" in SOURCES:

    rule positives:
        input:
            of_all_runs(OF_RUN.model, SOURCES["positives"].runs.values()),
        output:
            png=f"{PATHS.figures}/positives.png",
            pdf=f"{PATHS.figures}/positives.pdf",
        log:
            f"{PATHS.logs}/positives.log",
        localrule: True
        params:
            losses=json.dumps(
                {
                    name: of_all_runs(OF_RUN.losses, [run])
                    for name, run in SOURCES["positives"].runs.items()
                }
            ),
        shell:
            "python workflow/scripts/positives.py --losses {params.losses:q} "
            "--png {output.png} --pdf {output.pdf} 2>&1 | tee {log}"
